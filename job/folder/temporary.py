"""Temporary files of a folder on disk: they name their writer, take their final name in one step, or are swept up."""

import contextlib
import ctypes
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from job.errors import BadConfig
from job.process import is_gone, own_process

TEMPORARY = ".writing-"
# A temporary file of another host that has not grown for so long was left by a process that was killed. Its writer, if
# it was only frozen, writes it again.
STALE_SECONDS = 600
# What os.link says where there are no hard links. That this user may write here is known: the temporary file is there.
NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}
NOT_KNOWN = {*NO_LINKS, errno.EINVAL}
AT_FDCWD, RENAME_NOREPLACE = -100, 1


def own_prefix() -> str:
    """Return how the names of this process's temporary files begin; whoever reads it can tell whether it still runs."""
    with contextlib.suppress(ValueError):
        boot, namespace, pid, start = own_process().split()
        return f"{TEMPORARY}{uuid.UUID(boot).hex}-{namespace.strip('pid:[]')}-{pid}-{start}-"
    return TEMPORARY


def writer_of(name: str) -> str:
    """Return the `process_id` that a temporary file's name holds, or '' if it holds none."""
    with contextlib.suppress(ValueError):
        boot, namespace, pid, start, _ = name.removeprefix(TEMPORARY).split("-")
        return f"{uuid.UUID(boot)} pid:[{namespace}] {pid} {start}"
    return ""


def sweep_up(folders: Iterator[Path], now_seconds: float) -> None:
    """Remove the temporary files that killed processes left in these folders.

    now_seconds: the time by the clock of the file system, which stamps the files and may differ from this machine's.
    """
    for path in (path for folder in folders for path in folder.glob(f"{TEMPORARY}*")):
        # Another process may sweep up too, or have renamed it.
        with contextlib.suppress(OSError):
            writer = writer_of(path.name)
            is_old = now_seconds - path.stat().st_mtime > STALE_SECONDS and writer != own_process()
            if is_old or is_gone(writer):
                path.unlink()


def name_once(temporary: Path, target: Path) -> bool:
    """Give a temporary file its final name, unless that is taken; return whether this call did.

    Without hard links a rename that replaces nothing does it. Where there is none either, an exclusive creation does:
    the file is then empty for a moment, or for good if the process is killed in that moment.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        renamed = rename_once(temporary, target)
        return create_once(temporary, target) if renamed is None else renamed
    return True


def rename_once(temporary: Path, target: Path) -> bool | None:
    """Rename a file unless the new name is taken; return whether it was renamed, None where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    old, new = os.fsencode(temporary), os.fsencode(target)
    if rename(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in NOT_KNOWN:
        return None
    raise OSError(code, os.strerror(code), str(target))


def create_once(temporary: Path, target: Path) -> bool:
    """Create the target exclusively, then put the temporary file in its place; return whether this call created it."""
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NOT_KNOWN:
            raise
        raise BadConfig(f"{target}: this file system has neither hard links nor a rename or creation that fails if the "
                        "file exists, so two processes could train the same trial; use a folder on another file "
                        "system, or s3://") from None
    try:
        temporary.replace(target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True
