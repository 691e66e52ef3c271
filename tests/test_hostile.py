"""What the world does to a sweep: links, pipes, odd names, damaged files, other builders, early signals."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from conftest import KEYS, ROOT, environment, job, start_job, wait_for_line
from job.data.decode import decode
from job.data.pack import build_pack, read_passport
from job.data.prepare import ensure_pack
from job.data.source import read_source
from job.errors import BadConfig, BadData, MissingInput
from job.folder.grid import GridError, parse_grid
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.training.checkpoint import read_checkpoint
from job.training.weights import parse_weights
from job.trial import ImageOptions, Trial


@pytest.fixture
def copy(shapes: Path, tmp_path: Path) -> Path:
    """The small images, free to be spoilt."""
    for path in shapes.rglob("*.jpg"):
        target = tmp_path / "in" / path.relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "in"


@pytest.fixture(scope="module")
def done(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of one trial."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    assert job("sweep", "--images", shapes, "--grid", folder / "g.csv", folder / "sweep").code == 0
    return folder / "sweep"


@pytest.fixture
def sweep(done: Path, tmp_path: Path) -> Path:
    """A copy of it, free to be spoilt."""
    subprocess.run(["cp", "-a", str(done), str(tmp_path / "sweep")], check=True)
    return tmp_path / "sweep"


def prepare(source: Path, sweep: Path, **given: object) -> list[str]:
    """Build the pack; the names of what was rejected."""
    passport = ensure_pack(open_folder(str(sweep)), str(source), {"short_side": 48, "max_bad": 0.3, **given}, lambda a, b: None)
    return [item["image"] for item in passport.rejected]


def test_pipes_link_loops_and_broken_links_neither_hang_nor_relabel(copy: Path, tmp_path: Path) -> None:
    os.mkfifo(copy / "disc" / "pipe.jpg")
    (copy / "disc" / "up").symlink_to("..")
    (copy / "bar" / "up").symlink_to("..")
    (copy / "bar" / "loop.jpg").symlink_to("loop.jpg")
    (copy / "bar" / "broken.jpg").symlink_to("nowhere.jpg")
    assert sorted(prepare(copy, tmp_path / "s")) == ["bar/broken.jpg", "bar/loop.jpg"]
    passport = read_passport(open_folder(str(tmp_path / "s")))
    assert passport and passport.num_images == 40


def test_linked_images_and_folders_are_read(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "disc").mkdir(parents=True)
    for path in (shapes / "disc").iterdir():
        (tmp_path / "in" / "disc" / path.name).symlink_to(path)
    (tmp_path / "in" / "bar").symlink_to(shapes / "bar")
    assert prepare(tmp_path / "in", tmp_path / "s") == []


def test_names_that_are_no_utf8_and_classes_with_odd_letters(copy: Path, tmp_path: Path) -> None:
    (copy / "disc" / "disc01.jpg").rename(os.fsdecode(os.fsencode(copy / "disc") + b"/caf\xe9.jpg"))
    (copy / "bar").rename(copy / "b a\rr, \"ü\"")
    assert prepare(copy, tmp_path / "s") == ["disc/caf\\udce9.jpg"]
    (tmp_path / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    done = job("sweep", "--grid", tmp_path / "g.csv", tmp_path / "s")
    assert done.code == 0, done.err


def test_odd_exif_is_one_rejected_image(copy: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "abc"
    path = copy / "bar" / "odd.jpg"
    Image.new("RGB", (60, 48)).save(path, exif=exif)
    path.write_bytes(path.read_bytes().replace(b"\x01\x0f", b"\x01\x00", 1))
    assert prepare(copy, tmp_path / "s") in ([], ["bar/odd.jpg"])


def test_every_error_of_a_decoder_is_a_rejection(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it(image: Image.Image) -> Image.Image:
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(ImageOps, "exif_transpose", raise_it)
    buffer = io.BytesIO()
    Image.new("RGB", (60, 48)).save(buffer, "PNG")
    assert "damaged" in str(decode(buffer.getvalue(), 48))


def test_positive_and_missing_images_of_a_csv_go_together(copy: Path, tmp_path: Path) -> None:
    lines = [f"{path.relative_to(copy)},{path.parent.name}" for path in sorted(copy.rglob("*.jpg"))]
    (copy / "labels.csv").write_text("\n".join(["f,l", *lines, "gone.jpg,disc"]))
    assert prepare(copy / "labels.csv", tmp_path / "s", positive="bar") == ["gone.jpg"]
    (copy / "far.csv").write_text("f,l\nx.jpg,1\ny.jpg,0\n")
    with pytest.raises(MissingInput, match="none of its 2 images is beside it"):
        read_source(str(copy / "far.csv"), ImageOptions())
    with pytest.raises(BadData, match=r"only one class|no images|labels.csv"):
        (tmp_path / "one" / "images").mkdir(parents=True)
        (tmp_path / "one" / "images" / "a.jpg").write_bytes(b"x")
        (tmp_path / "one" / "labels.csv").write_text("f,l\na.jpg,1\n")
        read_source(str(tmp_path / "one"), ImageOptions())


def test_split_folders_without_train_or_without_classes_are_refused(tmp_path: Path) -> None:
    for name in ("a/val/x/1.jpg", "a/test/x/1.jpg", "b/train/1.jpg", "b/train/x/1.jpg", "b/val/x/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadData, match="without train/"):
        read_source(str(tmp_path / "a"), ImageOptions())
    with pytest.raises(BadData, match=r"train/1\.jpg lies in no class folder"):
        read_source(str(tmp_path / "b"), ImageOptions())


def test_builder_that_comes_second_with_other_options_is_told(shapes: Path, tmp_path: Path) -> None:
    class Late(LocalFolder):
        def write_once(self, name: str, data: bytes) -> bool:
            other = open_folder(str(tmp_path / "s"))
            options = ImageOptions(short_side=50)
            build_pack(read_source(str(shapes), options), other, options, lambda a, b: None)
            return super().write_once(name, data)

    with pytest.raises(BadConfig, match="short_side was 50, now 48"):
        ensure_pack(Late(str(tmp_path / "s")), str(shapes), {"short_side": 48}, lambda a, b: None)


def test_same_images_by_another_path_are_the_same(shapes: Path, tmp_path: Path) -> None:
    assert prepare(shapes, tmp_path / "s") == prepare(shapes / "disc" / "..", tmp_path / "s")


def flip_a_byte(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)


def train_again(sweep: Path) -> tuple[int, str]:
    (sweep / "trials" / "1" / "row.json").unlink(missing_ok=True)
    done = job("train", sweep, "--trial", "1")
    assert "Traceback" not in done.err + done.out
    return done.code, done.err


def test_damaged_and_missing_shards_are_named_not_trained_on(sweep: Path) -> None:
    (sweep / "trials" / "1" / "last.pt").unlink()
    shard = next((sweep / "pack").glob("*.safetensors"))
    flip_a_byte(shard)
    code, text = train_again(sweep)
    assert code == 65 and shard.name in text and "damaged" in text and "passport.json" in text
    shard.unlink()
    code, text = train_again(sweep)
    assert code == 66 and shard.name in text and "gone" in text


def test_damaged_checkpoint_is_noticed_wherever_the_damage_is(sweep: Path) -> None:
    whole = (sweep / "trials" / "1" / "last.pt").read_bytes()
    saved = torch.load(sweep / "trials" / "1" / "last.pt", weights_only=True)
    trial = Trial(**saved["trial"])
    read_checkpoint(whole, trial, saved["pack_hash"], "last.pt")
    for share in (0.01, 0.2, 0.5, 0.8, 0.99):
        data = bytearray(whole)
        data[int(len(data) * share)] ^= 0xFF
        with pytest.raises(BadConfig, match=r"damaged checkpoint"):
            read_checkpoint(bytes(data), trial, saved["pack_hash"], "last.pt")
    (sweep / "trials" / "1" / "last.pt").write_bytes(whole[:-1000])
    code, text = train_again(sweep)
    assert code == 78 and "last.pt" in text and "delete it" in text


@pytest.mark.parametrize(("name", "text", "command", "code"), [
    ("pack/passport.json", "", "train", 78), ("pack/passport.json", "{}", "train", 78),
    ("trials/1/attempts/0001.json", "{", "status", 0), ("trials/1/attempts/0001.json", "{}", "status", 0),
    ("trials/1/epochs.csv", "epoch,train_loss,train_acc,val_loss,val_acc\ninf,1,1,1,1\n", "gather", 78),
    ("trials/1/row.json", "{", "gather", 78), ("trials/1/row.json", "[]", "status", 78), ("summary.json", "{", "gather", 0)])
def test_damaged_small_files_are_named_or_passed_over(sweep: Path, name: str, text: str, command: str, code: int) -> None:
    (sweep / name).write_text(text)
    if "attempts" in name:
        (sweep / "trials" / "1" / "row.json").unlink()
    done = job(command, sweep, *(["--trial", "1"] if command == "train" else []))
    assert done.code == code, done.err
    assert "Traceback" not in done.err and (code == 0 or name.rsplit("/", maxsplit=1)[-1] in done.err)


def test_text_in_brackets_is_shown_not_taken_for_markup(sweep: Path) -> None:
    path = sweep / "trials" / "1" / "row.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "weights": "[/a][x]/w.pth"}))
    done = job("gather", sweep)
    assert done.code == 0 and "[/a][x]/w.pth" in done.out


@pytest.mark.parametrize("text", ["seed\n" + "9" * 400, "batch_size\n" + "9" * 400, "lr\n1e308", "gamma\n1e300", "weights\na\0b"])
def test_huge_numbers_and_nul_bytes_in_a_grid_name_their_column(text: str) -> None:
    with pytest.raises(GridError, match=r"line 2, column|line contains NUL"):
        parse_grid(text + "\n")


@pytest.mark.parametrize("data", [b"trial,lr\n1,0.1\n", b"", b"\x80\x02}q\x00.", bytes(range(256)) * 20])
def test_any_bytes_as_weights_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadData, match=r"w\.pt"):
        parse_weights(data, "w.pt")


def test_predict_of_what_does_not_exist_exits_66(done: Path, tmp_path: Path) -> None:
    assert job("predict", done, tmp_path / "gone.jpg").code == 66
    folder = job("predict", done, tmp_path)
    assert folder.code == 66 and "a folder, where a file is needed" in folder.out
    assert "there are those of 1" in job("predict", done, "x.jpg", "--trial", "9").err


def test_sweep_under_a_file_and_unknown_home_are_bad_configuration(done: Path) -> None:
    under = job("sweep", done / "grid.csv" / "x")
    assert under.code == 78 and "file stands where a folder is needed" in under.err
    assert job("status", "~nosuchuser/x").code == 78


def test_full_standard_output_exits_75() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "job", "grid", "--lr", "0.1"], stdout=full, stderr=subprocess.PIPE,
                              text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 75 and "Traceback" not in done.stderr


class Hanging(BaseHTTPRequestHandler):
    """A store that lists 200 images and never hands one out."""

    asked = threading.Event()

    def do_GET(self) -> None:
        if "list-type" not in self.path:
            self.asked.set()
            time.sleep(300)
        keys = "".join(f"<Contents><Key>pics/{'ab'[n % 2]}/{n:03d}.jpg</Key><Size>9</Size></Contents>" for n in range(200))
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


def test_sigterm_while_a_trial_concludes_ends_the_sweep_after_it(shapes: Path, make_grid: Callable[..., Path],
                                                                 tmp_path: Path) -> None:
    grid = make_grid(lr=[0.01, 0.02, 0.03], epochs=[1, 1, 1])
    process = start_job("sweep", "--images", shapes, "--grid", grid, tmp_path / "s")
    wait_for_line(process, "epoch 1/1")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert not (tmp_path / "s" / "trials" / "3").exists()


def test_keys_that_may_not_write_fail_before_training(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from job.errors import AccessDenied
    from job.training.display import Display
    from job.training.run import run_trial

    class ReadOnly(LocalFolder):
        def write(self, name: str, data: bytes) -> None:
            raise AccessDenied("read only")

    (sweep / "trials" / "1" / "row.json").unlink()
    (sweep / "trials" / "1" / "last.pt").unlink()
    folder = ReadOnly(str(sweep))
    passport = read_passport(folder)
    assert passport
    trial = parse_grid((sweep / "grid.csv").read_text())[0]
    began = time.monotonic()
    with pytest.raises(AccessDenied), Display(Console(quiet=True)) as display:
        run_trial(folder, [trial], passport, display, threading.Event(), {})
    assert time.monotonic() - began < 60
