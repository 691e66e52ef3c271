"""Copies of a pack's files on this machine, in a folder of this user's own."""

import atexit
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from job.errors import BadData, MissingInput
from job.folder.layout import PASSPORT
from job.folder.local import local_errors
from job.folder.storage import Folder, join, local_path


def local_copy(sweep: Folder, name: str, num_bytes: int, sha256: str) -> Path:
    """Return the local path of a file of the pack; one in object storage is copied once to the temporary folder.

    A pack's files are named by their content, so a copy is valid for every sweep that names it. Raises BadData if the
    size (unless 0) or the hash (unless '') differs from the passport's, and MissingInput if the file is gone.
    """
    if folder := local_path(sweep):
        path = folder / "pack" / name
    else:
        path = own_folder() / name
        if not path.exists() or not is_intact(path, num_bytes, sha256):
            fetch_whole(sweep, f"pack/{name}", path)
    if not path.is_file():
        raise MissingInput(f"{path}: this file of the pack is missing; {rebuild(sweep)}")
    if not is_intact(path, num_bytes, sha256):
        raise BadData(f"{path}: this file of the pack is damaged; {rebuild(sweep)}")
    return path


def rebuild(sweep: Folder) -> str:
    """Return what to do about a damaged pack."""
    return f"delete {join(sweep.uri, PASSPORT)} to make the pack again"


def fetch_whole(sweep: Folder, name: str, path: Path) -> None:
    """Copy a file so that it appears under its name once it is complete."""
    with local_errors(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        os.close(handle)
        try:
            sweep.fetch(name, Path(temporary))
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def own_folder() -> Path:
    """Return the folder of the copies: TMPDIR/trialgrid-packs-UID, or a new one if another user can write to that one.

    Any user can make that name in a shared temporary folder, as a folder of their own or as a link.
    """
    path = Path(tempfile.gettempdir()) / f"trialgrid-packs-{os.getuid()}"
    with local_errors(path):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            found = path.lstat()
            is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
            return path if is_own else folder_of_this_process()
        return path


@functools.cache
def folder_of_this_process() -> Path:
    """Return a new folder that is removed when this process ends."""
    path = tempfile.mkdtemp(prefix="trialgrid-packs-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def is_intact(path: Path, num_bytes: int, sha256: str) -> bool:
    """Return whether a file has this size (unless 0) and this hash (unless '')."""
    if num_bytes and path.stat().st_size != num_bytes:
        return False
    if not sha256:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
