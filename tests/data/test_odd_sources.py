"""Images as the world has them: links, pipes, odd names, damaged metadata, a store that hangs."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from job.data.pack import read_passport
from job.data.prepare import ensure_pack
from job.data.source import read_source
from job.errors import BadData, MissingInput
from job.folder.storage import open_folder
from job.trial import ImageOptions
from support import KEYS, job, start_job


def prepare(source: Path, sweep: Path, **given: object) -> list[str]:
    """Build the pack; the names of what was rejected."""
    options = {"short_side": 48, "max_bad": 0.3, **given}
    passport = ensure_pack(open_folder(str(sweep)), str(source), options, lambda done, total: None)
    return [item["image"] for item in passport.rejected]


def test_pipes_link_loops_and_broken_links_neither_hang_nor_relabel(spare_images: Path, tmp_path: Path) -> None:
    os.mkfifo(spare_images / "disc" / "pipe.jpg")
    (spare_images / "disc" / "up").symlink_to("..")
    (spare_images / "bar" / "up").symlink_to("..")
    (spare_images / "bar" / "loop.jpg").symlink_to("loop.jpg")
    (spare_images / "bar" / "broken.jpg").symlink_to("nowhere.jpg")
    assert sorted(prepare(spare_images, tmp_path / "s")) == ["bar/broken.jpg", "bar/loop.jpg"]
    passport = read_passport(open_folder(str(tmp_path / "s")))
    assert passport and passport.num_images == 40


def test_linked_images_and_folders_are_read(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "disc").mkdir(parents=True)
    for path in (shapes / "disc").iterdir():
        (tmp_path / "in" / "disc" / path.name).symlink_to(path)
    (tmp_path / "in" / "bar").symlink_to(shapes / "bar")
    assert prepare(tmp_path / "in", tmp_path / "s") == []


def test_names_that_are_no_utf8_and_classes_with_odd_letters(spare_images: Path, tmp_path: Path) -> None:
    (spare_images / "disc" / "disc01.jpg").rename(os.fsdecode(os.fsencode(spare_images / "disc") + b"/caf\xe9.jpg"))
    (spare_images / "bar").rename(spare_images / "b a\rr, \"ü\"")
    assert prepare(spare_images, tmp_path / "s") == ["disc/caf\\udce9.jpg"]
    (tmp_path / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    done = job("sweep", "--grid", tmp_path / "g.csv", tmp_path / "s")
    assert done.code == 0, done.err


def test_odd_exif_is_one_rejected_image(spare_images: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "abc"
    path = spare_images / "bar" / "odd.jpg"
    Image.new("RGB", (60, 48)).save(path, exif=exif)
    path.write_bytes(path.read_bytes().replace(b"\x01\x0f", b"\x01\x00", 1))
    assert prepare(spare_images, tmp_path / "s") in ([], ["bar/odd.jpg"])


class Hanging(BaseHTTPRequestHandler):
    """A store that lists 200 images and never hands one out."""

    asked = threading.Event()

    def do_GET(self) -> None:
        if "list-type" not in self.path:
            self.asked.set()
            time.sleep(300)
        names = [f"pics/{'ab'[n % 2]}/{n:03d}.jpg" for n in range(200)]
        keys = "".join(f"<Contents><Key>{name}</Key><Size>9</Size></Contents>" for name in names)
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hanging_store() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hanging)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_sigterm_ends_packing_from_a_store_that_hangs(hanging_store: str, tmp_path: Path) -> None:
    process = start_job("prepare", "s3://bucket/pics", tmp_path / "s", **KEYS, AWS_ENDPOINT_URL=hanging_store)
    assert Hanging.asked.wait(60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_positive_and_missing_images_of_a_csv_go_together(spare_images: Path, tmp_path: Path) -> None:
    lines = [f"{path.relative_to(spare_images)},{path.parent.name}" for path in sorted(spare_images.rglob("*.jpg"))]
    (spare_images / "labels.csv").write_text("\n".join(["f,l", *lines, "gone.jpg,disc"]))
    assert prepare(spare_images / "labels.csv", tmp_path / "s", positive="bar") == ["gone.jpg"]
    (spare_images / "far.csv").write_text("f,l\nx.jpg,1\ny.jpg,0\n")
    with pytest.raises(MissingInput, match="none of its 2 images is beside it"):
        read_source(str(spare_images / "far.csv"), ImageOptions())
    with pytest.raises(BadData, match=r"only one class|no images|labels.csv"):
        (tmp_path / "one" / "images").mkdir(parents=True)
        (tmp_path / "one" / "images" / "a.jpg").write_bytes(b"x")
        (tmp_path / "one" / "labels.csv").write_text("f,l\na.jpg,1\n")
        read_source(str(tmp_path / "one"), ImageOptions())
