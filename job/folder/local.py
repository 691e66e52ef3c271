"""A folder on a file system."""

import contextlib
import errno
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from job.errors import AccessDenied, BadConfig, MissingInput, SweepRemoved, TryAgain
from job.folder.temporary import TEMPORARY, name_once, own_prefix, sweep_up
from job.folder.walk import walk

Answer = TypeVar("Answer")


@contextlib.contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into the errors of this program."""
    try:
        yield
    except IsADirectoryError:
        raise MissingInput(f"{path}: a folder, where a file is needed") from None
    except FileNotFoundError:
        raise MissingInput(f"{path}: there is no such file") from None
    except (FileExistsError, NotADirectoryError):
        raise BadConfig(f"{path}: a file is where a folder is needed; name another folder") from None
    except PermissionError as error:
        raise AccessDenied(f"{path}: {error.strerror}; give this user access to it, or name another folder") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"{path}: {error.strerror}; free some space and start again") from None
        if error.errno == errno.EROFS:
            raise AccessDenied(f"{path}: {error.strerror}; name another folder") from None
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL):
            raise MissingInput(f"{path}: {error.strerror}") from None
        raise TryAgain(f"{path}: {error.strerror or error}; start again once the file system works") from None


class LocalFolder:
    """A folder on a file system. A write makes a hidden temporary file, then renames it in one step."""

    def __init__(self, path: str) -> None:
        try:
            self.path = Path(path).expanduser().absolute()
        except (RuntimeError, FileNotFoundError) as error:
            raise BadConfig(f"{path}: {error}; name another folder") from None
        self.uri = str(self.path)
        # Folders in which this object has swept up what killed writers left.
        self._swept: set[Path] = set()
        self._has_written = False

    def read(self, name: str) -> bytes:
        with local_errors(self.path / name):
            return (self.path / name).read_bytes()

    @contextlib.contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        if self._has_written and not self.path.exists():
            raise SweepRemoved(f"{self.uri}: this folder was removed while this process worked in it, so it writes "
                               "nothing more; to make it anew, run the command again")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=own_prefix(), dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                self._sweep_up(target.parent, os.fstat(handle).st_mtime)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~UMASK)
            yield temporary
            self._has_written = True
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep_up(self, folder: Path, now_seconds: float) -> None:
        """Sweep up in a folder before the first write there; before one at the top (a summary), in all folders."""
        if folder not in self._swept:
            self._swept.add(folder)
            below = (Path(found) for found, _, _ in os.walk(folder))
            sweep_up(below if folder == self.path else iter([folder]), now_seconds)

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name

        def put() -> None:
            with self._temporary(target, data) as temporary:
                temporary.replace(target)

        with local_errors(target):
            twice(put)

    def write_once(self, name: str, data: bytes) -> bool:
        target = self.path / name

        def put() -> bool:
            with self._temporary(target, data) as temporary:
                return name_once(temporary, target)

        with local_errors(target):
            return twice(put)

    def exists(self, name: str) -> bool:
        with local_errors(self.path / name):
            return (self.path / name).exists()

    def names(self, prefix: str = "") -> Iterator[str]:
        top = self.path / posixpath.dirname(prefix)
        with local_errors(top):
            found = []
            for folder, files in walk(top):
                here = Path(folder)
                found += [(here / file).relative_to(self.path).as_posix() for file in files
                          if not file.startswith(TEMPORARY) and is_file_or_broken_link(here / file)]
        yield from sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        with local_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def fetch(self, name: str, path: Path) -> None:
        with local_errors(self.path / name):
            shutil.copyfile(self.path / name, path)

    def read_part(self, name: str, start: int, num_bytes: int) -> bytes:
        with local_errors(self.path / name), (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)


def twice(put: Callable[[], Answer]) -> Answer:
    """Return what `put` returns; a temporary file that vanished, because this process was frozen, is written again."""
    try:
        return put()
    except FileNotFoundError:
        return put()


def is_file_or_broken_link(path: Path) -> bool:
    """Return whether a name counts as a file: no pipe or device, but a broken link does, so that it is reported."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def current_umask() -> int:
    """Return the umask of this process; it can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


UMASK = current_umask()
