"""The split is stratified, seeded by content and honest about duplicates; the pack is whole or absent."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors import safe_open

from conftest import ROOT, S3, draw, environment, job, shared, start_job
from job.data.pack import Passport, build_pack, read_passport
from job.data.prepare import ensure_pack
from job.data.source import read_source
from job.data.split import assign_splits
from job.errors import BadConfig, BadData, MissingInput, TryAgain
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.trial import ImageOptions

SMALL = ImageOptions(short_side=48)


def quiet(done: int, total: int) -> None:
    """No progress is shown."""


def pack(source: Path | str, sweep: Path | str, options: ImageOptions = SMALL) -> Passport:
    given = {name: value for name, value in asdict(options).items() if value != getattr(ImageOptions(), name)}
    return ensure_pack(open_folder(str(sweep)), str(source), given, quiet)


def splits_of(sweep: Path, passport: Passport) -> dict[str, str]:
    lines = (sweep / "pack" / passport.table["name"]).read_text().splitlines()[1:]
    return {line.split(",")[0]: line.split(",")[2] for line in lines}


def test_split_is_10_percent_test_and_20_percent_of_the_rest_in_each_class() -> None:
    labels = ["a"] * 200 + ["b"] * 50
    splits = assign_splits(labels, [str(i) for i in range(250)], [""] * 250, ImageOptions())
    assert Counter(zip(labels, splits, strict=True)) == {
        ("a", "test"): 20, ("a", "val"): 36, ("a", "train"): 144, ("b", "test"): 5, ("b", "val"): 9, ("b", "train"): 36}


def test_split_depends_on_content_and_seed_not_on_names_or_order() -> None:
    labels, digests = ["a"] * 40 + ["b"] * 40, [f"{i:040d}" for i in range(80)]
    first = dict(zip(digests, assign_splits(labels, digests, [""] * 80, ImageOptions()), strict=True))
    backward = assign_splits(labels[::-1], digests[::-1], [""] * 80, ImageOptions())
    assert dict(zip(digests[::-1], backward, strict=True)) == first
    other = assign_splits(labels, digests, [""] * 80, ImageOptions(split_seed=1))
    assert other != list(first.values()) and Counter(other) == Counter(first.values())


def test_identical_images_stay_on_one_side_whatever_the_seed() -> None:
    labels, digests = ["a"] * 40 + ["b"] * 40, [str(i // 4) for i in range(80)]
    for seed in range(20):
        splits = assign_splits(labels, digests, [""] * 80, ImageOptions(split_seed=seed))
        assert all(len({splits[4 * group + k] for k in range(4)}) == 1 for group in range(20))
        assert {"train", "val", "test"} == set(splits)


@pytest.mark.parametrize("number", [3, 4, 5, 7])
def test_small_class_is_in_every_split(number: int) -> None:
    labels = ["a"] * number + ["b"] * 50
    splits = assign_splits(labels, [str(i) for i in range(len(labels))], [""] * len(labels), ImageOptions())
    assert set(splits[:number]) == {"train", "val", "test"}


def test_too_small_class_is_named() -> None:
    with pytest.raises(BadData, match="class 'a' has 2 different images; 3 are needed"):
        assign_splits(["a"] * 4 + ["b"] * 9, ["x", "x", "y", "y", *map(str, range(9))], [""] * 13, ImageOptions())
    with pytest.raises(BadData, match="class 'b' has no val image"):
        assign_splits(["a", "a", "b"], ["1", "2", "3"], ["train", "val", "train"], ImageOptions())


def test_given_split_is_kept_but_for_training_images_that_are_held_out_too() -> None:
    given = ["train", "train", "val", "test", "train", "val", "test"]
    digests = ["1", "2", "2", "3", "4", "5", "6"]
    labels = ["a", "a", "a", "a", "b", "b", "b"]
    assert assign_splits(labels, digests, given, ImageOptions()) == ["train", "", "val", "test", "train", "val", "test"]


def test_validation_is_drawn_from_train_where_folders_give_none() -> None:
    labels = (["a"] * 20 + ["b"] * 20) * 2
    given = ["train"] * 40 + ["test"] * 40
    splits = assign_splits(labels, [str(i) for i in range(80)], given, ImageOptions())
    assert Counter(splits) == {"train": 32, "val": 8, "test": 40} and splits[40:] == ["test"] * 40


def test_pack_is_the_same_from_every_folder_and_process(shapes: Path, tmp_path: Path) -> None:
    first = pack(shapes, tmp_path / "one")
    code = ("from job.data.prepare import ensure_pack; from job.folder.storage import open_folder\n"
            f"print(ensure_pack(open_folder({str(tmp_path / 'two')!r}), {str(shapes)!r}, {{'short_side': 48}},"
            " lambda a, b: None).pack_hash)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    assert done.stdout.strip() == first.pack_hash
    assert {p.name for p in (tmp_path / "one" / "pack").iterdir()} == {p.name for p in (tmp_path / "two" / "pack").iterdir()}


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
        decoding = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(decoding[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "a decoding process was killed" in out, out
    assert not (tmp_path / "s" / "pack" / "passport.json").exists()
    assert job("prepare", tmp_path / "in", tmp_path / "s").code == 0


def test_pack_hash_covers_images_labels_split_and_options(shapes: Path, tmp_path: Path) -> None:
    hashes = {pack(shapes, tmp_path / "plain").pack_hash}
    for number, options in enumerate((ImageOptions(short_side=49), ImageOptions(short_side=48, split_seed=1),
                                      ImageOptions(short_side=48, test=0.2), ImageOptions(short_side=48, positive="bar"))):
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


def test_two_builders_at_once_leave_one_whole_pack(shapes: Path, tmp_path: Path) -> None:
    """Builders of different images, so that a mixture would show."""
    other = tmp_path / "other"
    for label in ("bar", "disc"):
        for number in range(20):
            draw(other / label / f"{number}.jpg", label, 100 + number)
    sweep, found = open_folder(str(tmp_path / "sweep")), []

    def build(uri: str) -> None:
        found.append(build_pack(read_source(uri, SMALL), sweep, SMALL, quiet))

    threads = [threading.Thread(target=build, args=(uri,)) for uri in (str(shapes), str(other)) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    standing = read_passport(sweep)
    assert standing and {passport.pack_hash for passport in found} == {standing.pack_hash}
    named = {"passport.json", standing.table["name"], *(str(shard["name"]) for shard in standing.shards)}
    assert {path.name for path in (tmp_path / "sweep" / "pack").iterdir()} == named


def test_pack_of_other_images_or_options_is_not_taken_silently(shapes: Path, tmp_path: Path) -> None:
    pack(shapes, tmp_path / "sweep")
    with pytest.raises(BadConfig, match="positive was '', now 'bar'"):
        pack(shapes, tmp_path / "sweep", ImageOptions(short_side=48, positive="bar"))
    with pytest.raises(BadConfig, match="split_seed was 0, now 3"):
        ensure_pack(open_folder(str(tmp_path / "sweep")), "", {"split_seed": 3}, quiet)
    assert ensure_pack(open_folder(str(tmp_path / "sweep")), "", {}, quiet).num_images == 40


def test_sweep_without_pack_or_images_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="--images"):
        pack("", tmp_path / "sweep")


def test_killed_builders_source_is_remembered(shapes: Path, tmp_path: Path) -> None:
    class Full(LocalFolder):
        def write_once(self, name: str, data: bytes) -> bool:
            if name == "pack/passport.json":
                raise TryAgain("no space")
            return super().write_once(name, data)

    with pytest.raises(TryAgain):
        ensure_pack(Full(str(tmp_path / "sweep")), str(shapes), {"short_side": 50}, quiet)
    passport = ensure_pack(open_folder(str(tmp_path / "sweep")), "", {}, quiet)
    assert passport.options["short_side"] == 50 and passport.num_images == 40


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
    assert {split: sum(counts.values()) for split, counts in passport.counts.items()} == {"train": 245, "val": 153, "test": 0}
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
