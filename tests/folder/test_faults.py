"""Requests that come late, short, changed or not at all: the real S3 server behind a proxy that spoils them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.errors import AccessDenied, TryAgain
from job.folder import s3_calls
from job.folder.s3 import S3Folder
from job.folder.storage import Folder, open_folder
from proxy import Fault, Proxy, proxy_to
from support import S3


@pytest.fixture
def proxy(s3_here: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, by which this process reaches it."""
    with proxy_to(s3_here.env["AWS_ENDPOINT_URL"]) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        s3_calls._clients.clear()
        yield found
        found.settle()


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> Folder:
    """A folder in the bucket, seen through the proxy."""
    return open_folder(f"s3://bucket/{tmp_path.name}")


@pytest.mark.parametrize("first", [1, 2])
def test_write_that_arrives_after_later_ones_replaces_none_of_them(proxy: Proxy, place: Folder, first: int) -> None:
    """The client's retry has succeeded meanwhile, and so have later writes of other bytes."""
    done: list[int] = []
    proxy.faults.append(Fault("late", "PUT", "epochs.csv", skip=first - 1, until=lambda: bool(done)))
    for number in range(1, 5):
        place.write("epochs.csv", f"{number} epochs".encode())
    done.append(1)
    proxy.settle()
    assert any(line.startswith("delivered PUT") and line.endswith(" 412") for line in proxy.log)
    assert place.read("epochs.csv") == b"4 epochs"


def test_write_of_another_process_that_arrives_late_replaces_nothing(proxy: Proxy, place: Folder) -> None:
    done: list[int] = []
    place.write("summary.xlsx", b"0")
    proxy.faults.append(Fault("late", "PUT", "summary.xlsx", skip=1, until=lambda: bool(done)))
    other = open_folder(place.uri)
    other.write("summary.xlsx", b"old")
    open_folder(place.uri).write("summary.xlsx", b"new")
    done.append(1)
    proxy.settle()
    assert place.read("summary.xlsx") == b"new"


def test_deletion_that_arrives_late_deletes_no_later_object(proxy: Proxy, place: Folder) -> None:
    """The row of a failed trial is deleted, the trial succeeds, and then the deletion arrives again."""
    done: list[int] = []
    place.write_once("row.json", b"failed")
    proxy.faults.append(Fault("late", "DELETE", "row.json", until=lambda: bool(done)))
    place.delete("row.json")
    assert not place.exists("row.json") and place.write_once("row.json", b"done")
    done.append(1)
    proxy.settle()
    assert place.read("row.json") == b"done"


@pytest.mark.parametrize("what", ["drop", "lose"])
def test_write_whose_answer_is_lost_is_written_once_and_goes_on(proxy: Proxy, place: Folder, what: str) -> None:
    for number in range(3):
        proxy.faults.append(Fault(what, "PUT"))  # type: ignore[arg-type]
        place.write("last.pt", bytes([number]) * 100_000)
        assert place.read("last.pt") == bytes([number]) * 100_000


@pytest.mark.parametrize("what", ["corrupt", "short", "cut", "drop"])
@pytest.mark.parametrize("verb", ["read", "fetch", "names"])
def test_one_bad_answer_is_asked_again(proxy: Proxy, place: Folder, tmp_path: Path, what: str, verb: str) -> None:
    data = json.dumps({"epochs": list(range(5000))}).encode()
    place.write("a/row.json", data)
    # In a listing most changed bytes leave a text that says something else; this one is the number in its first line.
    where = 0.5 if verb != "names" else 0.02
    proxy.faults.append(Fault(what, "GET", where=where))  # type: ignore[arg-type]
    if verb == "names":
        assert list(place.names("a/")) == ["a/row.json"]
    elif verb == "read":
        assert place.read("a/row.json") == data
    else:
        place.fetch("a/row.json", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
    assert len(proxy.log) == 1


def test_object_of_another_program_is_checked_by_its_etag(proxy: Proxy, place: Folder, s3_here: S3) -> None:
    s3_here.client().put_object(Bucket="bucket", Key=f"{place.uri.split('/')[-1]}/image.jpg", Body=b"x" * 1000)
    proxy.faults += [Fault("corrupt", "GET"), Fault("short", "GET")]
    assert place.read("image.jpg") == b"x" * 1000 and len(proxy.log) == 2


def test_object_that_does_not_match_its_checksum_is_returned_after_two_equal_reads(
        proxy: Proxy, place: Folder, s3_here: S3) -> None:
    """What is stored is the reader's to judge: damage in the store is not a bad read."""
    key = f"{place.uri.split('/')[-1]}/x"
    s3_here.client().put_object(Bucket="bucket", Key=key, Body=b"stored", Metadata={"md5": "0" * 32})
    assert place.read("x") == b"stored"


def test_reads_that_all_differ_mean_try_again(proxy: Proxy, place: Folder) -> None:
    place.write("x", b"y" * 1000)
    proxy.faults += [Fault("corrupt", "GET", where=part / 10) for part in range(1, 9)]
    with pytest.raises(TryAgain, match="reads gave different bytes"):
        place.read("x")
    proxy.faults[:] = [Fault("cut", "GET", times=99)]
    with pytest.raises(TryAgain, match="short or damaged"):
        place.read("x")


def test_body_that_is_changed_on_its_way_to_the_store_is_sent_again(proxy: Proxy, place: Folder) -> None:
    proxy.faults += [Fault("spoil", "PUT"), Fault("spoil", "PUT", skip=1)]
    place.write("x", b"y" * 1000)
    assert place.write_once("y", b"y" * 1000)
    assert place.read("x") == place.read("y") == b"y" * 1000


def test_denial_for_some_seconds_is_waited_for_and_said(
        proxy: Proxy, place: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.faults.append(Fault("status", code=403, times=2))
    place.write("x", b"1")
    assert place.read("x") == b"1"
    assert capsys.readouterr().err.count("in case a token is being renewed") == 1


def test_denial_that_lasts_is_waited_for_once(
        proxy: Proxy, place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIALGRID_PATIENCE", "5")
    proxy.faults.append(Fault("status", code=403, times=999))
    with pytest.raises(AccessDenied) as caught:
        place.read("x")
    assert type(caught.value) is AccessDenied
    tries = len(proxy.log)
    for name in ("x", "y"):
        with pytest.raises(AccessDenied):
            place.exists(name)
    assert tries > 1 and len(proxy.log) == tries + 2
    proxy.faults.clear()
    place.write("x", b"1")
    proxy.faults.append(Fault("status", code=403))
    assert place.read("x") == b"1"


def test_store_that_cannot_replace_conditionally_is_written_plainly(proxy: Proxy, place: Folder) -> None:
    proxy.faults.append(Fault("status", "PUT", code=501))
    place.write("x", b"1")
    assert place.read("x") == b"1"


def test_password_of_the_endpoint_is_in_no_message(
        proxy: Proxy, place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:open-sesame@127.0.0.1:9")
    s3_calls._clients.clear()
    with pytest.raises(TryAgain) as caught:
        place.read("x")
    assert "sesame" not in str(caught.value) and "127.0.0.1:9" in str(caught.value)
    assert isinstance(place, S3Folder)
