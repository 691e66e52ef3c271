"""The local copies of a pack lie in a folder that only this user can write to."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
import torch

from job.data import cache
from job.data.load import load_batches, loaded
from job.data.prepare import ensure_pack
from job.errors import TryAgain
from job.folder.storage import open_folder
from job.trial import Trial
from support import S3

TRIAL = Trial(trial="1", image_size=40, model="mlp", weights="none")


@pytest.fixture
def shared_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test, and the place of the copies in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cache.folder_of_this_process.cache_clear()
    return tmp_path / "tmp" / f"trialgrid-packs-{os.getuid()}"


def test_own_folder_is_made_for_this_user_alone_and_used_again(shared_temporary: Path) -> None:
    assert cache.own_folder() == shared_temporary
    assert stat.S_IMODE(shared_temporary.stat().st_mode) == 0o700
    assert cache.own_folder() == shared_temporary


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "writable by all", "writable by the group", "other"])
def test_folder_that_another_user_can_write_to_is_not_used(kind: str, shared_temporary: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    if "link" in kind:
        shared_temporary.symlink_to(tmp_path / ("theirs" if kind == "link" else "nothing"))
    elif kind == "file":
        shared_temporary.write_text("")
    else:
        shared_temporary.mkdir()
        shared_temporary.chmod({"writable by all": 0o777, "writable by the group": 0o770}.get(kind, 0o700))
    if kind == "other":
        monkeypatch.setattr(os, "getuid", lambda owner=os.getuid(): owner + 1)
        shared_temporary.rename(shared_temporary.with_name(f"trialgrid-packs-{os.getuid()}"))
    found = cache.own_folder()
    assert found != shared_temporary and found.name != f"trialgrid-packs-{os.getuid()}"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700 and cache.own_folder() == found
    assert not list((tmp_path / "theirs").iterdir()) and not (tmp_path / "nothing").exists()
    shutil.rmtree(found)


def test_pack_in_s3_is_copied_past_a_link_to_the_folder_of_another(
        shapes: Path, s3_here: S3, shared_temporary: Path, tmp_path: Path) -> None:
    sweep = open_folder("s3://bucket/cached")
    passport = ensure_pack(sweep, str(shapes), {"short_side": 48}, lambda done, total: None)
    (tmp_path / "theirs").mkdir()
    shared_temporary.symlink_to(tmp_path / "theirs")
    assert len(load_batches(sweep, passport, TRIAL, torch.device("cpu")).names) == 40
    assert not list((tmp_path / "theirs").iterdir())
    shared_temporary.unlink()
    loaded.clear()  # as in another process
    load_batches(sweep, passport, TRIAL, torch.device("cpu"))
    assert len(list(shared_temporary.iterdir())) == 1 + len(passport.shards)


def test_copy_that_fails_leaves_nothing(shared_temporary: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_folder(str(tmp_path / "sweep"))

    def broken(name: str, path: Path) -> None:
        path.write_bytes(b"ha")
        raise TryAgain("lost in the middle")

    monkeypatch.setattr(sweep, "fetch", broken)
    with pytest.raises(TryAgain):
        cache.fetch_whole(sweep, "pack/x", cache.own_folder() / "x")
    assert not list(shared_temporary.iterdir())
