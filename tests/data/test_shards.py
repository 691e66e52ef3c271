"""Decoding processes, by the command line: what an image may take, how they end, what they say."""

import functools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from job.data.pack import read_passport
from job.folder.storage import open_folder
from support import ROOT, draw, environment, job, start_job

# Loaded by every Python of the command, decoding processes too: images of these widths do what damaged ones might.
ODD_DECODER = """
import os, signal, time
from PIL import ImageFile
from job.data.image_file import bounds
bounds.MOST_SECONDS = {seconds}
load = ImageFile.ImageFile.load
def odd_load(self):
    while self.width == 61: pass
    if self.width == 62: os.kill(os.getpid(), signal.SIGSEGV)
    if self.width == 63: bytearray(9 << 30)
    if self.width == 64: os.kill(os.getpid(), signal.SIGKILL)
    return load(self)
ImageFile.ImageFile.load = odd_load
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """80 images in two classes."""
    for label in ("bar", "disc"):
        for number in range(40):
            draw(tmp_path / "in" / label / f"{number}.jpg", label, number)
    return tmp_path / "in"


def odd_decoder(folder: Path, seconds: int = 1) -> dict[str, str]:
    """Return the environment that makes decoders odd."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(ODD_DECODER.format(seconds=seconds))
    return {"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "2"}


def pack_hash(sweep: Path) -> str:
    passport = read_passport(open_folder(str(sweep)))
    assert passport
    return passport.pack_hash


def children(pid: int) -> list[int]:
    """Return the decoding processes of a command."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"job.data.decoding" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_children(process: "subprocess.Popen[str]") -> list[int]:
    """Return its decoding processes once they decode."""
    while process.poll() is None:
        found = children(process.pid)
        if found and any(seconds_of(pid) > 1 for pid in found):
            return found
        time.sleep(0.05)
    pytest.fail(str(process.communicate()))


def seconds_of(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("num_images", [80, 20])
def test_image_that_takes_too_much_is_rejected_by_name_and_the_others_go_on(images: Path, tmp_path: Path,
                                                                            num_images: int) -> None:
    for path in images.rglob("*.jpg"):
        if int(path.stem) >= num_images // 2:
            path.unlink()
    for name in ("slow", "crash", "large"):
        (images / "bar" / f"{name}.png").write_text("no image")
    assert job("prepare", images, tmp_path / "without", "--max-bad", "0.5").code == 0
    for width, name in ((61, "slow"), (62, "crash"), (63, "large")):
        draw(images / "bar" / f"{name}.png", "bar", width, (width, 48))
    done = job("prepare", images, tmp_path / "s", "--max-bad", "0.5", **odd_decoder(tmp_path / "odd"))
    assert done.code == 0, done.err
    passport = read_passport(open_folder(str(tmp_path / "s")))
    assert passport and {item["image"]: item["reason"] for item in passport.rejected} == {
        "bar/slow.png": "takes more than 1 s of processor time to decode (decompression bomb)",
        "bar/crash.png": "damaged: it crashes the decoder (SIGSEGV)",
        "bar/large.png": "takes more than 4 GiB of memory to decode (decompression bomb)"}
    assert passport.pack_hash == pack_hash(tmp_path / "without")


def test_killed_decoder_is_try_again_and_names_memory_and_image(images: Path, tmp_path: Path) -> None:
    draw(images / "bar" / "heavy.png", "bar", 0, (64, 48))
    done = job("prepare", images, tmp_path / "s", **odd_decoder(tmp_path / "odd"))
    assert done.code == 75 and "killed at bar/heavy.png, probably because memory ran out (SIGKILL)" in done.err
    assert not (tmp_path / "s" / "pack" / "passport.json").exists()


def large(kind: str, path: Path) -> None:
    """Write an image of 24 megapixels."""
    options = {"progressive": True} if kind == "JPEG" else {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.new("RGB", (6000, 4000), (9, 99, 200)).save(path, kind, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_lack_of_memory_never_decides_what_is_in_the_pack(kind: str, images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.jpg"):
        if int(path.stem) >= 10:
            path.unlink()
    large(kind, images / "bar" / f"large.{kind.lower()}")
    assert job("prepare", images, tmp_path / "free").code == 0
    codes = set()
    for mebibytes in (400, 550, 800):
        sweep = tmp_path / str(mebibytes)
        limit = mebibytes << 20
        done = subprocess.run(
            [sys.executable, "-m", "job", "prepare", str(images), str(sweep)], capture_output=True, text=True,
            check=False, cwd=ROOT, env=environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
            preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_AS, (limit, limit)))
        codes.add(done.returncode)
        if done.returncode == 0:
            assert pack_hash(sweep) == pack_hash(tmp_path / "free")
        else:
            assert done.returncode == 75 and "memory" in done.stderr, done.stderr
            assert not (sweep / "pack" / "passport.json").exists()
    assert 75 in codes


def test_decoders_end_with_a_killed_parent_in_the_midst_of_an_image(images: Path, tmp_path: Path) -> None:
    draw(images / "bar" / "slow.png", "bar", 0, (61, 48))
    process = start_job("prepare", images, tmp_path / "s", **odd_decoder(tmp_path / "odd", seconds=300))
    decoding = wait_for_children(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(map(is_alive, decoding)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, decoding))


@pytest.mark.parametrize(("number", "said"), [
    (signal.SIGTERM, ""), (signal.SIGINT, "job: stopped by Ctrl-C; [^\n]*\n")])
@pytest.mark.parametrize("is_for_all", [False, True])
def test_signal_to_preparing_prints_nothing_of_its_decoders(number: signal.Signals, said: str, is_for_all: bool,
                                                            images: Path, tmp_path: Path) -> None:
    draw(images / "bar" / "slow.png", "bar", 0, (61, 48))
    process = subprocess.Popen(
        [sys.executable, "-m", "job", "prepare", str(images), str(tmp_path / "s")], text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=environment(TRIALGRID_QUIET="1", **odd_decoder(tmp_path / "odd", seconds=300)))
    decoding = wait_for_children(process)
    if is_for_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and re.fullmatch(said, out), out
    assert not any(map(is_alive, decoding))


def test_libraries_of_decoders_write_nothing_to_the_screen(images: Path, tmp_path: Path) -> None:
    for number in range(6):
        path = images / "bar" / f"{number}.tif"
        draw(path, "bar", number)
        with Image.open(path) as image:
            image.save(path, compression="tiff_lzw")
        data = path.read_bytes()
        path.write_bytes(data[:40] + bytes(60) + data[100:])
    done = job("prepare", images, tmp_path / "s", "--max-bad", "0.5")
    assert done.code == 0
    for line in done.err.splitlines():
        assert not re.search("LZW|TIFF[A-Z]|libtiff|Traceback", line), done.err


def test_decoders_are_given_time_anew_for_each_image(images: Path, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").resize((4000, 3000)).save(tmp_path / "large.png")
    for number in range(10):
        shutil.copy(tmp_path / "large.png", images / "disc" / f"large{number}.png")
    done = job("prepare", images, tmp_path / "s", **odd_decoder(tmp_path / "odd"))
    assert done.code == 0, done.err
