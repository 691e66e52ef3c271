"""A folder in S3, or in another store that speaks S3."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.errors import AccessDenied, BadConfig, MissingInput, TryAgain

MISSING_CODES = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
DENIED_CODES = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
                "InvalidToken", "AllAccessDisabled", "AccountProblem", "TokenRefreshRequired",
                "AuthorizationHeaderMalformed"}


@contextlib.contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn botocore's errors into the errors of this program."""
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = str(error.response.get("Error", {}).get("Message", "")) or code
        if code in MISSING_CODES or status == 404:
            what = "no such bucket" if code == "NoSuchBucket" else "no such object"
            raise MissingInput(f"{uri}: {what}") from None
        if code in DENIED_CODES or status in (401, 403):
            raise AccessDenied(f"{uri}: access denied ({message}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
                               "AWS_PROFILE, AWS_REGION and the permissions of the key") from None
        if status == 301 or code == "PermanentRedirect":
            raise BadConfig(f"{uri}: the bucket is in another region; set AWS_REGION to that region") from None
        raise TryAgain(f"{uri}: the storage answered {code or status} ({message}); start again later") from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError):
        raise AccessDenied(f"{uri}: no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                           "AWS_PROFILE, or a workload identity") from None
    except (aws.ProfileNotFound, aws.ConfigParseError, aws.ConfigNotFound, aws.ParamValidationError,
            ValueError) as error:
        raise BadConfig(f"{uri}: {error}; check the URI and the AWS configuration") from None
    except (aws.BotoCoreError, OSError) as error:
        raise TryAgain(f"{uri}: the storage cannot be reached ({error}); "
                       "check AWS_ENDPOINT_URL and the network, then start again") from None


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
            _clients[os.getpid()] = session.client("s3", config=config)
        return _clients[os.getpid()]


class S3Folder:
    """A prefix in a bucket. The store itself makes a PUT whole or absent."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}".lstrip("/")}

    def read(self, name: str) -> bytes:
        with s3_errors(f"{self.uri}/{name}"):
            return bytes(s3_client().get_object(**self._at(name))["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        with s3_errors(f"{self.uri}/{name}"):
            s3_client().put_object(**self._at(name), Body=data)

    def write_once(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with s3_errors(f"{self.uri}/{name}"):
            try:
                s3_client().put_object(**self._at(name), Body=data, IfNoneMatch="*")
            except ClientError as error:
                # 412: the object exists. 409: another conditional write of it is in progress.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                    return False
                raise
            return True

    def exists(self, name: str) -> bool:
        try:
            with s3_errors(f"{self.uri}/{name}"):
                s3_client().head_object(**self._at(name))
        except MissingInput:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        base = f"{self.prefix}/" if self.prefix else ""
        with s3_errors(f"{self.uri}/{prefix}"):
            pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base + prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        yield item["Key"][len(base):]

    def delete(self, name: str) -> None:
        with s3_errors(f"{self.uri}/{name}"):
            s3_client().delete_object(**self._at(name))

    def fetch(self, name: str, path: Path) -> None:
        with s3_errors(f"{self.uri}/{name}"), path.open("wb") as file:
            body = s3_client().get_object(**self._at(name))["Body"]
            shutil.copyfileobj(body, file, 1 << 20)
