"""A folder on a file system."""

import contextlib
import errno
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from job.errors import AccessDenied, BadConfig, MissingInput, TryAgain

TEMPORARY = ".writing-"
# A temporary file this old was left by a process that was killed.
STALE_SECONDS = 3600


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

    def read(self, name: str) -> bytes:
        with local_errors(self.path / name):
            return (self.path / name).read_bytes()

    @contextlib.contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._remove_stale(target.parent)
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
    def _remove_stale(folder: Path) -> None:
        """Remove the temporary files that killed processes left behind."""
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
                # Skips a link to a folder above, which would never end.
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
    """Return whether a name counts as a file: no pipe or device, but a broken link does, so that it is reported."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def current_umask() -> int:
    """Return the umask of this process; it can be read only by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


UMASK = current_umask()
