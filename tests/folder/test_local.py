"""A folder on disk: file systems without hard links, what killed writers leave, and a folder that is removed."""

import ctypes
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job.errors import BadConfig, SweepRemoved
from job.folder import temporary
from job.folder.local import LocalFolder
from job.folder.temporary import STALE_SECONDS, TEMPORARY
from racing import race


def fail(code: int) -> object:
    def call(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def no_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a FUSE file system: no rename that fails if the name is taken."""
    monkeypatch.setattr(temporary, "rename_once", lambda old, new: None)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])
@pytest.mark.parametrize("can_rename", [True, False])
def test_without_hard_links_one_of_many_writers_wins_and_its_bytes_are_whole(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, can_rename: bool) -> None:
    monkeypatch.setattr(os, "link", fail(code))
    if not can_rename:
        no_rename(monkeypatch)
    folder = LocalFolder(str(tmp_path))
    won = race(folder, [b"%d" % number * 100_000 for number in range(8)])
    assert len(won) == 1 and folder.read("row.json") == b"%d" % won[0] * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_rename_that_replaces_nothing_is_known_here(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert hasattr(ctypes.CDLL(None), "renameat2")
    assert temporary.rename_once(tmp_path / "a", tmp_path / "b") is False
    assert temporary.rename_once(tmp_path / "a", tmp_path / "c") is True and (tmp_path / "c").read_text() == "a"


def test_file_system_that_can_do_none_of_it_is_refused_by_what_it_lacks(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, create = LocalFolder(str(tmp_path)), os.open
    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    no_rename(monkeypatch)
    monkeypatch.setattr(os, "open", lambda path, flags, *more, **named: (
        create(path, flags, *more, **named) if TEMPORARY in str(path) else fail(errno.ENOTSUP)()))  # type: ignore[operator]
    with pytest.raises(BadConfig, match=r"row\.json: this file system has neither hard links nor"):
        folder.write_once("row.json", b"1")


def left_by(script: str, folder: Path) -> None:
    """Run a process that leaves a temporary file and is killed."""
    code = f"""
import os, signal, sys
from job.folder.local import LocalFolder
def killed(handle): os.kill(os.getpid(), signal.SIGKILL)
os.fsync = killed
LocalFolder(sys.argv[1]).write({script!r}, b"half" * 1000)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{TEMPORARY}*"))


def test_next_writer_of_a_folder_sweeps_up_what_a_killed_one_left(tmp_path: Path) -> None:
    left_by("trials/1/last.pt", tmp_path)
    assert len(temporaries(tmp_path)) == 1
    LocalFolder(str(tmp_path)).write("trials/1/epochs.csv", b"1")
    assert temporaries(tmp_path) == []


def test_gather_sweeps_up_in_every_folder(tmp_path: Path) -> None:
    for name in ("trials/1/last.pt", "trials/2/attempts/0001.json", "pack/pixels"):
        left_by(name, tmp_path)
    LocalFolder(str(tmp_path)).write("summary.json", b"1")
    assert temporaries(tmp_path) == []


def test_what_another_host_may_still_write_stays_until_it_is_old_by_the_clock_of_the_file_system(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = f"{TEMPORARY}{'0' * 32}-4026531836-7-99-x"
    young, old, older_version = tmp_path / f"{elsewhere}1", tmp_path / f"{elsewhere}2", tmp_path / f"{TEMPORARY}abc"
    for path in (young, old, older_version):
        path.write_bytes(b"half")
    for path in (old, older_version):
        os.utime(path, (0, time.time() - STALE_SECONDS - 5))
    # This machine's clock is days ahead of the file system's.
    ahead = time.time() + 500_000
    monkeypatch.setattr(time, "time", lambda: ahead)
    LocalFolder(str(tmp_path)).write("summary.json", b"1")
    assert temporaries(tmp_path) == [young]


def test_own_temporary_file_that_vanished_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a long freeze, when another process has swept up."""
    folder, swept = LocalFolder(str(tmp_path)), list[Path]()
    sync = os.fsync

    def sweep(handle: int) -> None:
        sync(handle)
        if len(swept) < 1:
            swept.extend(temporaries(tmp_path))
            swept[0].unlink()

    monkeypatch.setattr(os, "fsync", sweep)
    folder.write("last.pt", b"whole")
    assert folder.read("last.pt") == b"whole" and swept


def test_folder_that_is_removed_is_not_made_again(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "sweep"))
    folder.write("trials/1/epochs.csv", b"1")
    (tmp_path / "sweep").rename(tmp_path / "gone")
    for write in (folder.write, folder.write_once):
        with pytest.raises(SweepRemoved, match="was removed while this process worked in it"):
            write("trials/1/last.pt", b"1")
    assert not (tmp_path / "sweep").exists()
