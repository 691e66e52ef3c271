"""The pack: deterministic, covered by its hash, honest about duplicates and rejects, and built in bounded memory."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from job.data.pack import Passport, read_passport
from job.errors import BadData
from job.folder.storage import open_folder
from job.trial import ImageOptions
from packs import SMALL, pack
from support import ROOT, S3, draw, environment, job, shared, start_job


def splits_of(sweep: Path, passport: Passport) -> dict[str, str]:
    lines = (sweep / "pack" / passport.table["name"]).read_text().splitlines()[1:]
    return {line.split(",")[0]: line.split(",")[2] for line in lines}


def test_pack_is_the_same_from_every_folder_and_process(shapes: Path, tmp_path: Path) -> None:
    first = pack(shapes, tmp_path / "one")
    code = ("from job.data.prepare import ensure_pack; from job.folder.storage import open_folder\n"
            f"print(ensure_pack(open_folder({str(tmp_path / 'two')!r}), {str(shapes)!r}, {{'short_side': 48}},"
            " lambda a, b: None).pack_hash)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(),
                          check=True)
    assert done.stdout.strip() == first.pack_hash
    one, two = ({path.name for path in (tmp_path / name / "pack").iterdir()} for name in ("one", "two"))
    assert one == two


def test_pack_is_the_same_from_one_process_and_from_many(tmp_path: Path) -> None:
    for label in ("bar", "disc"):
        for number in range(50):
            draw(tmp_path / "in" / label / f"{number}.jpg", label, number)
    (tmp_path / "in" / "bar" / "text.jpg").write_text("no image")
    for cores in ("1", "3"):
        done = job("prepare", tmp_path / "in", tmp_path / cores, "--short-side", 48, OMP_NUM_THREADS=cores)
        assert done.code == 0, done.err
    one, many = (read_passport(open_folder(str(tmp_path / cores))) for cores in ("1", "3"))
    assert one and one == many and one.num_images == 100 and len(one.shards) == 4 and len(one.rejected) == 1
    lines = list(csv.DictReader((tmp_path / "1" / "pack" / one.table["name"]).open(newline="")))
    for shard, about in enumerate(one.shards):
        here = [line for line in lines if line["shard"] == str(shard)]
        assert len(here) == about["num_images"]
        with safe_open(tmp_path / "3" / "pack" / str(about["name"]), framework="np") as file:
            assert file.get_tensor("pixels").size == sum(3 * int(line["height"]) * int(line["width"]) for line in here)


def test_killed_decoding_process_is_try_again_and_leaves_no_passport(tmp_path: Path) -> None:
    for label in ("bar", "disc"):
        for number in range(50):
            draw(tmp_path / "in" / label / f"{number}.jpg", label, number)
    process = start_job("prepare", tmp_path / "in", tmp_path / "s", OMP_NUM_THREADS="2")
    decoding: list[int] = []
    while not decoding and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        decoding = [int(pid) for pid in children if b"job.data.decoding" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(decoding[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "a decoding process was killed" in out, out
    assert not (tmp_path / "s" / "pack" / "passport.json").exists()
    assert job("prepare", tmp_path / "in", tmp_path / "s").code == 0


def test_pack_hash_covers_images_labels_split_and_options(shapes: Path, tmp_path: Path) -> None:
    hashes = {pack(shapes, tmp_path / "plain").pack_hash}
    others = (replace(SMALL, short_side=49), replace(SMALL, split_seed=1), replace(SMALL, test=0.2),
              replace(SMALL, positive="bar"))
    for number, options in enumerate(others):
        hashes.add(pack(shapes, tmp_path / str(number), options).pack_hash)
    other = tmp_path / "other"
    for path in shapes.rglob("*.jpg"):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / path.relative_to(shapes)).write_bytes(path.read_bytes())
    (other / "bar" / "bar00.jpg").rename(other / "disc" / "bar00.jpg")
    hashes.add(pack(other, tmp_path / "relabelled").pack_hash)
    draw(other / "disc" / "disc00.jpg", "ring", 0)
    hashes.add(pack(other, tmp_path / "redrawn").pack_hash)
    assert len(hashes) == 7


def test_bad_images_are_named_with_reasons_and_too_many_stop(tmp_path: Path) -> None:
    for label in ("bar", "disc"):
        for number in range(20):
            draw(tmp_path / "in" / label / f"{number}.jpg", label, number)
    (tmp_path / "in" / "bar" / "text.jpg").write_text("no image")
    (tmp_path / "in" / "bar" / "zero.jpg").write_bytes(b"")
    whole = (tmp_path / "in" / "bar" / "3.jpg").read_bytes()
    (tmp_path / "in" / "disc" / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(BadData, match=r"3 of 43 images cannot be used, more than --max-bad 0.05") as caught:
        pack(tmp_path / "in", tmp_path / "sweep")
    assert "bar/text.jpg: not an image" in str(caught.value)
    assert not (tmp_path / "sweep" / "pack" / "passport.json").exists()
    passport = pack(tmp_path / "in", tmp_path / "sweep", ImageOptions(short_side=48, max_bad=0.1))
    assert {item["image"]: item["reason"].split()[0] for item in passport.rejected} == {
        "bar/text.jpg": "not", "bar/zero.jpg": "empty", "disc/cut.jpg": "damaged:"}
    assert passport.num_images == 40


def test_missing_image_of_a_csv_counts_as_bad(shapes: Path, tmp_path: Path) -> None:
    lines = [f"{path.name},{path.parent.name}" for path in shapes.rglob("*.jpg")]
    images = tmp_path / "images"
    images.mkdir()
    for path in shapes.rglob("*.jpg"):
        (images / path.name).write_bytes(path.read_bytes())
    (tmp_path / "labels.csv").write_text("\n".join(["f,l", *lines, "gone.jpg,bar"]))
    passport = pack(tmp_path / "labels.csv", tmp_path / "sweep")
    assert passport.rejected == [{"image": "gone.jpg", "reason": "missing"}] and passport.num_images == 40


def test_duplicates_and_contradicting_labels_are_reported(shapes: Path, tmp_path: Path) -> None:
    for path in shapes.rglob("*.jpg"):
        for name in (path.name, *(["copy.jpg"] if path.name == "disc00.jpg" else [])):
            target = tmp_path / "in" / path.parent.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / "in" / "bar" / "wrong.jpg").write_bytes((shapes / "disc" / "disc01.jpg").read_bytes())
    passport = pack(tmp_path / "in", tmp_path / "sweep")
    assert passport.duplicates == [["bar/wrong.jpg", "disc/disc01.jpg"], ["disc/copy.jpg", "disc/disc00.jpg"]]
    assert passport.conflicts == [["bar/wrong.jpg", "disc/disc01.jpg"]]
    assert any("different labels" in text for text in passport.warnings)
    splits = splits_of(tmp_path / "sweep", passport)
    assert all(splits[first] == splits[second] for first, second in passport.duplicates)


def test_s3_pack_equals_the_local_one(shapes: Path, tmp_path: Path, s3_here: S3) -> None:
    uri = s3_here.upload(shapes, "images")
    remote = pack(uri, "s3://bucket/packed")
    assert remote.pack_hash == pack(shapes, tmp_path / "sweep").pack_hash
    assert json.loads(open_folder("s3://bucket/packed").read("pack/passport.json"))["source"] == uri


def test_rare_class_is_warned_of(tmp_path: Path) -> None:
    for label, count in (("bar", 4), ("disc", 60)):
        for number in range(count):
            draw(tmp_path / "in" / label / f"{number}.jpg", label, number)
    assert "class 'bar' is rare: 4 of 64" in pack(tmp_path / "in", tmp_path / "sweep").warnings[0]


def test_split_folders_of_real_images_are_kept(tmp_path: Path) -> None:
    passport = pack(shared("data", "ants_bees"), tmp_path)
    sizes = {split: sum(counts.values()) for split, counts in passport.counts.items()}
    assert sizes == {"train": 245, "val": 153, "test": 0}
    assert all(split == name.split("/")[0] for name, split in splits_of(tmp_path, passport).items())


def peak_memory_of_preparing(source: Path, sweep: Path) -> int:
    """KiB, of the command and the largest of its decoding processes."""
    command = [sys.executable, "-m", "job", "prepare", str(source), str(sweep)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment())
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_memory_of_preparing_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """A pack of 2 shards against one of 8."""
    peaks = []
    for count in (300, 1200):
        for label in ("bar", "disc"):
            for number in range(count):
                draw(tmp_path / str(count) / label / f"{number}.jpg", label, number)
        peaks.append(peak_memory_of_preparing(tmp_path / str(count), tmp_path / f"sweep{count}"))
        assert len(list((tmp_path / f"sweep{count}" / "pack").glob("*.safetensors"))) >= 2 * count // 300
    assert peaks[1] < 1.15 * peaks[0], peaks
