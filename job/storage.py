"""Folders of objects, on a file system or in S3, with one small set of verbs; knows nothing of what the bytes mean.

Credentials, region and endpoint of S3 come from the standard AWS variables and files.
"""

import contextlib
import errno
import os
import posixpath
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from job.errors import AccessDenied, BadConfig, MissingInput, TryAgain

MISSING_CODES = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
TEMPORARY, STALE_SECONDS = ".writing-", 3600
DENIED_CODES = {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
                "InvalidToken", "AllAccessDisabled", "AccountProblem", "TokenRefreshRequired", "AuthorizationHeaderMalformed"}


class Folder(Protocol):
    """A folder of objects; names are relative, with forward slashes.

    Every verb raises MissingInput, AccessDenied or TryAgain. A write is whole or absent, never half.
    """

    uri: str

    def read(self, name: str) -> bytes:
        """The whole object."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Make or replace an object."""
        ...

    def write_once(self, name: str, data: bytes) -> bool:
        """Write unless the object exists; whether this call wrote it. Of many racing calls one answers True."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that begin with `prefix`, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; none there is no error."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a local file, without holding it in memory."""
        ...


def join(uri: str, name: str) -> str:
    """The URI of an object in a folder."""
    return f"{uri.rstrip('/')}/{name}" if uri != "/" else f"/{name}"


def open_folder(uri: str) -> Folder:
    """The folder at a path or an s3:// URI; nothing is read or made yet. Raises BadConfig for another scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalFolder(uri)
    if scheme == "file":
        return LocalFolder(rest)
    if scheme != "s3":
        raise BadConfig(f"{uri}: {scheme}:// is not supported; use a path or s3://bucket/folder "
                        "(for another store that speaks S3, set AWS_ENDPOINT_URL)")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise BadConfig(f"{uri}: the bucket's name is missing; write s3://bucket/folder")
    return S3Folder(bucket, prefix.strip("/"))


def split_uri(uri: str) -> tuple[str, str]:
    """A file's URI as its folder's URI and its name."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    return (folder or ("/" if uri.startswith("/") else ".")), name


def read_uri(uri: str) -> bytes:
    """The bytes of one file, by path or URI."""
    folder, name = split_uri(uri)
    return open_folder(folder).read(name)


@contextlib.contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except IsADirectoryError:
        raise MissingInput(f"{path}: a folder, where a file is needed") from None
    except FileNotFoundError:
        raise MissingInput(f"{path}: there is no such file") from None
    except (FileExistsError, NotADirectoryError):
        raise BadConfig(f"{path}: a file stands where a folder is needed; name another folder") from None
    except PermissionError as error:
        raise AccessDenied(f"{path}: {error.strerror}; give this user the right to it, or name another folder") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"{path}: {error.strerror}; free some space and start again") from None
        if error.errno == errno.EROFS:
            raise AccessDenied(f"{path}: {error.strerror}; name another folder") from None
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
            raise MissingInput(f"{path}: {error.strerror}") from None
        raise TryAgain(f"{path}: {error.strerror or error}") from None


class LocalFolder:
    """A folder on a file system. Writes go to a hidden temporary file first, then take their name in one step."""

    def __init__(self, path: str) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except (RuntimeError, FileNotFoundError) as error:
            raise BadConfig(f"{path}: {error}") from None
        self.uri = str(self.path)

    def read(self, name: str) -> bytes:
        with local_errors(self.path / name):
            return (self.path / name).read_bytes()

    @contextlib.contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._sweep_up(target.parent)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~UMASK)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _sweep_up(folder: Path) -> None:
        """Remove what writers that were killed have left behind more than an hour ago."""
        for path in folder.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        with local_errors(target), self._temporary(target, data) as temporary:
            temporary.replace(target)

    def write_once(self, name: str, data: bytes) -> bool:
        target = self.path / name
        with local_errors(target), self._temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            return True

    def exists(self, name: str) -> bool:
        with local_errors(self.path / name):
            return (self.path / name).exists()

    def names(self, prefix: str = "") -> Iterator[str]:
        top = self.path / posixpath.dirname(prefix)
        with local_errors(top):
            found = []
            visited = {os.path.realpath(top)}
            for folder, folders, files in os.walk(top, onerror=self._unreadable, followlinks=True):
                # A link back to a folder above would never end.
                folders[:] = [name for name in folders if os.path.realpath(Path(folder, name)) not in visited]
                visited.update(os.path.realpath(Path(folder, name)) for name in folders)
                here = Path(folder)
                found += [(here / file).relative_to(self.path).as_posix() for file in files
                          if not file.startswith(TEMPORARY) and is_file_or_broken_link(here / file)]
        yield from sorted(name for name in found if name.startswith(prefix))

    @staticmethod
    def _unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    def delete(self, name: str) -> None:
        with local_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def fetch(self, name: str, path: Path) -> None:
        with local_errors(self.path / name):
            shutil.copyfile(self.path / name, path)


def is_file_or_broken_link(path: Path) -> bool:
    """Whether a name is worth reading: no pipe or device; a broken link is, so that it is reported by name."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def current_umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


UMASK = current_umask()


@contextlib.contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn botocore's errors into ours."""
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
                               "AWS_PROFILE, AWS_REGION and what the key may do") from None
        if status == 301 or code == "PermanentRedirect":
            raise BadConfig(f"{uri}: the bucket is in another region; set AWS_REGION to it") from None
        raise TryAgain(f"{uri}: the storage answered {code or status}: {message}") from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError):
        raise AccessDenied(f"{uri}: no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                           "AWS_PROFILE, or a workload identity") from None
    except (aws.ProfileNotFound, aws.ConfigParseError, aws.ConfigNotFound, aws.ParamValidationError, ValueError) as error:
        raise BadConfig(f"{uri}: {error}") from None
    except (aws.BotoCoreError, OSError) as error:
        raise TryAgain(f"{uri}: the storage cannot be reached ({error}); "
                       "check AWS_ENDPOINT_URL and the network, then start again") from None


_client_lock = threading.Lock()
_clients: dict[int, Any] = {}


def s3_client() -> Any:
    """One S3 client a process: making it costs about 0.2 s, and it is safe to share between threads."""
    with _client_lock:
        if os.getpid() not in _clients:
            import boto3
            from botocore.config import Config

            # Checksums only where required: stores other than AWS do not all know the newer ones.
            config = Config(connect_timeout=10, read_timeout=60, max_pool_connections=32,
                            retries={"mode": "standard", "total_max_attempts": 4},
                            request_checksum_calculation="when_required", response_checksum_validation="when_required")
            _clients[os.getpid()] = boto3.session.Session(region_name=os.environ.get("AWS_REGION")).client("s3", config=config)
        return _clients[os.getpid()]


class S3Folder:
    """A prefix in a bucket. A PUT is whole or absent by the store's own promise."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}".lstrip("/")}

    def read(self, name: str) -> bytes:
        with s3_errors(join(self.uri, name)):
            return bytes(s3_client().get_object(**self._at(name))["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        with s3_errors(join(self.uri, name)):
            s3_client().put_object(**self._at(name), Body=data)

    def write_once(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with s3_errors(join(self.uri, name)):
            try:
                s3_client().put_object(**self._at(name), Body=data, IfNoneMatch="*")
            except ClientError as error:
                # 412: it exists. 409: another conditional write of it is under way, and will exist.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                    return False
                raise
            return True

    def exists(self, name: str) -> bool:
        try:
            with s3_errors(join(self.uri, name)):
                s3_client().head_object(**self._at(name))
        except MissingInput:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        base = f"{self.prefix}/" if self.prefix else ""
        with s3_errors(join(self.uri, prefix)):
            pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base + prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        yield item["Key"][len(base):]

    def delete(self, name: str) -> None:
        with s3_errors(join(self.uri, name)):
            s3_client().delete_object(**self._at(name))

    def fetch(self, name: str, path: Path) -> None:
        with s3_errors(join(self.uri, name)), path.open("wb") as file:
            body = s3_client().get_object(**self._at(name))["Body"]
            shutil.copyfileobj(body, file, 1 << 20)
