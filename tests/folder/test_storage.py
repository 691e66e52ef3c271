"""Folders on disk and in S3 keep the same promises; an error says in one line what to do."""

from pathlib import Path

import pytest

from job.errors import AccessDenied, BadConfig, MissingInput, TryAgain
from job.folder.local import LocalFolder
from job.folder.storage import Folder, open_folder, read_uri, split_uri
from racing import race
from support import S3


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return open_folder(str(tmp_path / "deep" / "folder"))
    request.getfixturevalue("s3_here")
    return open_folder(f"s3://bucket/{tmp_path.name}")


def test_written_object_reads_back_whole_and_is_listed(folder: Folder) -> None:
    folder.write("b/two", b"2" * 1000)
    folder.write("b/one", b"1")
    folder.write("a", b"")
    folder.write("b/one", b"again")
    assert folder.read("b/one") == b"again"
    assert list(folder.names()) == ["a", "b/one", "b/two"]
    assert list(folder.names("b/o")) == ["b/one"]
    assert folder.exists("a") and not folder.exists("b/three")
    folder.delete("b/two")
    folder.delete("b/two")
    assert list(folder.names("b/")) == ["b/one"]


def test_missing_object_is_named(folder: Folder) -> None:
    with pytest.raises(MissingInput, match="nothing"):
        folder.read("nothing")
    assert list(folder.names("none/")) == []


def test_one_of_many_racing_writers_wins_and_its_bytes_stay(folder: Folder) -> None:
    won = race(folder, [f"writer {number}".encode() for number in range(16)])
    assert len(won) == 1
    assert folder.read("row.json") == f"writer {won[0]}".encode()
    assert folder.write_once("row.json", b"late") is False


def test_fetch_copies_to_a_file(folder: Folder, tmp_path: Path) -> None:
    folder.write("big", b"x" * 3_000_000)
    folder.fetch("big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 3_000_000


def test_a_part_is_read_alone_and_ends_where_the_object_does(folder: Folder) -> None:
    folder.write("big", bytes(range(100)) * 10)
    assert folder.read_part("big", 250, 3) == bytes([50, 51, 52])
    assert folder.read_part("big", 990, 100) == bytes(range(90, 100))
    with pytest.raises(MissingInput, match="nothing"):
        folder.read_part("nothing", 0, 1)


def test_wrong_key_is_denied_and_says_which_variables_to_check(s3_here: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("TRIALGRID_PATIENCE", "1")
    with pytest.raises(AccessDenied, match="AWS_SECRET_ACCESS_KEY"):
        open_folder("s3://bucket/x").read("ready")


def test_absent_credentials_are_denied(s3_here: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(AccessDenied, match="no usable AWS credentials"):
        open_folder("s3://bucket/x").read("ready")


def test_absent_bucket_is_missing_and_named(s3_here: S3) -> None:
    with pytest.raises(MissingInput, match="no-such-bucket"):
        list(open_folder("s3://no-such-bucket/x").names())


def test_server_that_is_down_means_try_again(s3_here: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TryAgain, match="AWS_ENDPOINT_URL"):
        open_folder("s3://bucket/x").read("ready")


@pytest.mark.parametrize(("uri", "part"), [
    ("gs://b/x", "gs://"), ("s3://", "bucket's name"), ("s3:///x", "bucket's name"),
    ("s3://AKIA:open-sesame@b/x", "holds a key"), ("s3://AKIA:open/sesame@b/x", "holds a key"),
    ("https://b.s3.amazonaws.com/w.pt?X-Amz-Signature=sesame", "holds a key")])
def test_unknown_scheme_or_empty_bucket_is_refused(uri: str, part: str) -> None:
    with pytest.raises(BadConfig, match=part) as caught:
        open_folder(uri)
    assert "sesame" not in str(caught.value)


def test_file_uri_splits_into_folder_and_name(tmp_path: Path) -> None:
    assert split_uri("s3://b/x/grid.csv") == ("s3://b/x", "grid.csv")
    assert split_uri("/grid.csv") == ("/", "grid.csv")
    assert split_uri("grid.csv") == (".", "grid.csv")
    (tmp_path / "f").write_bytes(b"1")
    assert read_uri(str(tmp_path / "f")) == read_uri(f"file://{tmp_path}/f") == b"1"


def test_full_disk_means_try_again_and_leaves_nothing_half_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    folder = LocalFolder(str(tmp_path))
    folder.write("last.pt", b"whole")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgain, match="No space left"):
        folder.write("last.pt", b"never")
    assert folder.read("last.pt") == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
