"""Folders of objects, on a file system or in S3, with one small set of verbs; the bytes have no meaning here.

Credentials, region and endpoint of S3 come from the standard AWS variables and files.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from job.errors import BadConfig
from job.folder.local import LocalFolder
from job.folder.patience import patiently
from job.folder.s3 import S3Folder
from job.folder.traced import TracedFolder
from job.trial import KEY_IN_URI


class Folder(Protocol):
    """A folder of objects; names are relative, with forward slashes.

    Every verb may raise MissingInput, AccessDenied or TryAgain. A write is whole or absent, never half.
    """

    uri: str

    def read(self, name: str) -> bytes:
        """Return the whole object."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write an object, new or in place of the old one."""
        ...

    def write_once(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists; return whether this call did. Of many racing calls one returns True."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether the object exists."""
        ...

    def names(self, prefix: str = "") -> Iterator[str]:
        """Return the names that begin with `prefix`, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a local file, without holding it in memory."""
        ...

    def read_part(self, name: str, start: int, num_bytes: int) -> bytes:
        """Return these bytes of an object, fewer at its end; no hash vouches for them, so only a page shows them."""
        ...


def join(uri: str, name: str) -> str:
    """Return the URI of an object in a folder."""
    return f"{uri.rstrip('/')}/{name}" if uri != "/" else f"/{name}"


def open_folder(uri: str) -> Folder:
    """Return the folder at a path or an s3:// URI, without reading it. Raises BadConfig for another scheme.

    With TRIALGRID_VERBOSE set, what is read and written in it is printed.
    """
    folder = folder_at(uri)
    return TracedFolder(folder) if os.environ.get("TRIALGRID_VERBOSE") else folder


def open_patiently(uri: str) -> Folder:
    """Return the folder as `open_folder` does, once its storage answers: it may be away for up to 10 minutes."""
    folder = open_folder(uri)
    patiently(lambda: folder.exists("grid.csv"))
    return folder


def local_path(folder: Folder) -> Path | None:
    """Return where a folder lies on the file system; None for one in S3."""
    inner = folder.folder if isinstance(folder, TracedFolder) else folder
    return inner.path if isinstance(inner, LocalFolder) else None


def folder_at(uri: str) -> Folder:
    """Return the folder of the kind that the URI's scheme names; raises BadConfig for another scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalFolder(uri)
    if scheme == "file":
        return LocalFolder(rest)
    refuse_key(uri)
    if scheme != "s3":
        raise BadConfig(f"{uri}: {scheme}:// is not supported; use a path or s3://bucket/folder "
                        "(set AWS_ENDPOINT_URL for a store other than AWS that speaks S3)")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise BadConfig(f"{uri}: the bucket's name is missing; give s3://bucket/folder")
    return S3Folder(bucket, prefix.strip("/"))


def refuse_key(uri: str) -> None:
    """Raise BadConfig for a URI with user info or a signature, which would be printed and stored with it."""
    if KEY_IN_URI.match(uri):
        raise BadConfig(f"{uri}: this URI holds a key, a password or a signature (not shown here); take it out, and "
                        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")


def split_uri(uri: str) -> tuple[str, str]:
    """Return the URI of a file's folder, and the file's name."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    return (folder or ("/" if uri.startswith("/") else ".")), name


def read_uri(uri: str) -> bytes:
    """Return the bytes of one file, by path or URI."""
    folder, name = split_uri(uri)
    return open_folder(folder).read(name)
