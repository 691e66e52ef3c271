"""Requests to an S3 store: one client per process, its errors as ours, and which failures are asked again."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any, TypeVar

from job.errors import AccessDenied, BadConfig, JobError, MissingInput, TryAgain
from job.folder.patience import DENIED_SECONDS, PAUSE_SECONDS, note, patience_seconds

MISSING_CODES = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
DENIED_CODES = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
                "InvalidToken", "AllAccessDisabled", "AccountProblem", "TokenRefreshRequired",
                "AuthorizationHeaderMalformed"}
# The store says that the request arrived short or changed.
GARBLED_CODES = {"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentSHA256Mismatch", "RequestTimeout"}
MOST_GARBLED = 4

Answer = TypeVar("Answer")


class Denied(AccessDenied):
    """The store, or whoever gives out tokens, says no; a moment later it may say yes."""


class Garbled(TryAgain):
    """A request or an answer was cut short or changed on its way."""


class Changed(TryAgain):
    """The object is not what a conditional request takes it for."""


class Unconditional(TryAgain):
    """The store does not know this kind of conditional request."""


@contextlib.contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn botocore's errors into the errors of this program."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except aws.ClientError as error:
        raise refusal(uri, error.response) from None
    except aws.TokenRetrievalError as error:
        raise Denied(f"{uri}: no token for AWS ({error}); check the workload's identity") from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError):
        raise AccessDenied(f"{uri}: no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                           "AWS_PROFILE, or a workload identity") from None
    except (aws.ProfileNotFound, aws.ConfigParseError, aws.ConfigNotFound, aws.ParamValidationError,
            aws.EndpointProviderError) as error:
        raise BadConfig(f"{uri}: {error}; check the URI and the AWS configuration") from None
    # Before BotoCoreError and OSError, of which some are kinds. ValueError: a changed number or date in an answer.
    except (aws.IncompleteReadError, aws.ResponseStreamingError, ResponseParserError, HTTPError, HTTPException,
            ValueError) as error:
        raise Garbled(f"{uri}: an answer of the storage arrived short or damaged ({error or type(error).__name__}); "
                      "start again later") from None
    except (aws.BotoCoreError, OSError) as error:
        raise TryAgain(f"{uri}: the storage cannot be reached ({error}); "
                       "check AWS_ENDPOINT_URL and the network, then start again") from None


def refusal(uri: str, response: dict[str, Any]) -> JobError:
    """Return the error for an answer that says no."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = str(response.get("Error", {}).get("Message", "")) or code
    if code in MISSING_CODES or status == 404:
        return MissingInput(f"{uri}: {'no such bucket' if code == 'NoSuchBucket' else 'no such object'}")
    if code in DENIED_CODES or status in (401, 403):
        return Denied(f"{uri}: access denied ({message}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
                      "AWS_PROFILE, AWS_REGION and the permissions of the key")
    if status == 301 or code == "PermanentRedirect":
        return BadConfig(f"{uri}: the bucket is in another region; set AWS_REGION to that region")
    # 412: the object exists or is another one. 409: another conditional request for it is in progress.
    kind = (Changed if status in (409, 412) else Unconditional if status == 501
            else Garbled if code in GARBLED_CODES else TryAgain)
    return kind(f"{uri}: the storage answered {code or status} ({message}); start again later")


_client_lock = threading.Lock()
_clients: dict[int, Any] = {}


def s3_client() -> Any:
    """Return the S3 client of this process: it takes about 0.2 s to make, and threads can share it."""
    with _client_lock:
        if os.getpid() not in _clients:
            import boto3
            from botocore.config import Config

            # Checksums only where required: not all stores other than AWS support the newer ones.
            config = Config(connect_timeout=10, read_timeout=60, max_pool_connections=32,
                            retries={"mode": "standard", "total_max_attempts": 4},
                            request_checksum_calculation="when_required", response_checksum_validation="when_required")
            session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
            try:
                _clients[os.getpid()] = session.client("s3", config=config)
            except ValueError as error:
                raise BadConfig(f"S3: {error}; check AWS_ENDPOINT_URL and the AWS configuration") from None
        return _clients[os.getpid()]


# What was denied for the whole patience. While there is such, no other denial is waited for.
_denied: set[str] = set()


def ask(uri: str, request: Callable[[Any], Answer]) -> Answer:
    """Return what a request of the client returns; ask again after a garbled answer, and for a minute after a denial.

    Raises Changed and Unconditional for what a conditional request may meet.
    """
    began, num_garbled, num_denied = time.monotonic(), 0, 0
    while True:
        try:
            with s3_errors(uri):
                answer = request(s3_client())
            if uri in _denied:
                _denied.clear()
            return answer
        except Garbled as error:
            num_garbled += 1
            if num_garbled == MOST_GARBLED:
                raise TryAgain(str(error)) from None
        except Denied as error:
            num_denied += 1
            wait_for_permission(uri, error, began, num_denied)


def wait_for_permission(uri: str, error: JobError, began: float, num_denied: int) -> None:
    """Sleep before a denied request is sent again; raise AccessDenied once it has been denied for a minute."""
    left = patience_seconds(DENIED_SECONDS) - (time.monotonic() - began)
    if _denied or left <= 0:
        _denied.add(uri)
        raise AccessDenied(str(error)) from None
    if num_denied == 1:
        note(f"{error} (asking again for {left:.0f} s, in case a token is being renewed)")
    time.sleep(min(PAUSE_SECONDS, left))
    with _client_lock:
        # A new client reads renewed credentials.
        _clients.pop(os.getpid(), None)
