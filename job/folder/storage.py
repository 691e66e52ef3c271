"""Folders of objects, on a file system or in S3, with one small set of verbs; knows nothing of what the bytes mean.

Credentials, region and endpoint of S3 come from the standard AWS variables and files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from job.errors import BadConfig
from job.folder.local import LocalFolder
from job.folder.s3 import S3Folder


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
