"""Who builds the pack, from what, and what happens when several do: the pack is whole or absent."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from job.data.pack import build_pack, read_passport
from job.data.prepare import ensure_pack
from job.data.source import read_source
from job.errors import BadConfig, MissingInput, TryAgain
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.trial import ImageOptions
from packs import SMALL, pack, quiet
from support import ROOT, S3, Grid, Outcome, draw, job, row


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


def test_builder_that_comes_second_with_other_options_is_told(shapes: Path, tmp_path: Path) -> None:
    class Late(LocalFolder):
        def write_once(self, name: str, data: bytes) -> bool:
            other = open_folder(str(tmp_path / "s"))
            options = ImageOptions(short_side=50)
            build_pack(read_source(str(shapes), options), other, options, quiet)
            return super().write_once(name, data)

    with pytest.raises(BadConfig, match="short_side was 50, now 48"):
        ensure_pack(Late(str(tmp_path / "s")), str(shapes), {"short_side": 48}, quiet)


def test_same_images_by_another_path_are_the_same(shapes: Path, tmp_path: Path) -> None:
    assert pack(shapes, tmp_path / "s") == pack(shapes / "disc" / "..", tmp_path / "s")


COMMANDS = (("prepare", "{source}", "{sweep}"), ("sweep", "--images", "{source}", "{sweep}"),
            ("plan", "--images", "{source}", "{sweep}"),
            ("train", "{sweep}", "--trial", "1", "--lr", "0.1", "--images", "{source}"))


def run(command: tuple[str, ...], source: object, sweep: object, grid: Path, **env: str) -> Outcome:
    """Run a command that packs, with a grid where it takes one."""
    words = [word.format(source=source, sweep=sweep) for word in command]
    return job(*words, *(() if command[0] == "train" else ("--grid", grid)), **env)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_sweep_folder_among_the_images_is_refused_before_anything_is_written(
        spare_images: Path, tmp_path: Path, make_grid: Grid, command: tuple[str, ...]) -> None:
    grid, before = make_grid(lr=[0.1]), sorted(spare_images.rglob("*"))
    (tmp_path / "link").symlink_to(spare_images)
    for sweep in (spare_images, spare_images / "bar" / "sweep", tmp_path / "link" / "s", f"{spare_images}/../in/s"):
        done = run(command, spare_images, sweep, grid)
        assert done.code == 78 and "is among the images of" in done.err, done.err
        assert sorted(spare_images.rglob("*")) == before


def test_sweep_folder_beside_the_images_or_a_csv_is_none_of_them(spare_images: Path, tmp_path: Path) -> None:
    table = tmp_path / "in" / "labels.csv"
    table.write_text("f,l\n" + "".join(f"{path.relative_to(table.parent)},{path.parent.name}\n"
                                       for path in sorted(spare_images.rglob("*.jpg"))))
    # The name of a folder may begin as that of the images does.
    assert pack(spare_images, tmp_path / "in-sweep").num_images == 40
    assert pack(table, tmp_path / "in" / "sweeps" / "first").num_images == 40
    for sweep in ("in", "in/images", "in/images/s"):
        with pytest.raises(BadConfig, match="is among the images"):
            pack(table, tmp_path / sweep)


def test_sweep_prefix_among_the_images_in_s3_is_refused(s3: S3, spare_images: Path, make_grid: Grid) -> None:
    uri, grid = s3.upload(spare_images, "among"), make_grid(lr=[0.1])
    for sweep in (uri, f"{uri}/", f"{uri}/sweep"):
        done = run(COMMANDS[0], uri, sweep, grid, **s3.env)
        assert done.code == 78 and "is among the images of" in done.err, done.err
    assert run(COMMANDS[0], uri, f"{uri}-sweep", grid, **s3.env).code == 0


def test_sweep_that_was_made_among_the_images_by_an_older_version_resumes(spare_images: Path, tmp_path: Path) -> None:
    made = pack(spare_images, tmp_path / "s")
    shutil.copytree(tmp_path / "s", spare_images / "s")
    assert pack(spare_images, spare_images / "s") == made


@pytest.mark.parametrize("words", [
    ("prepare", "{source}", ""), ("prepare", "", "s"), ("sweep", ""), ("plan", " "), ("train", "", "--trial", "1"),
    ("status", ""), ("gather", ""), ("predict", "", "x.jpg"), ("manifests", "", "--image", "x"), ("rerun", ""),
    ("tensorboard", ""), ("sample", "")], ids=lambda words: words[0])
def test_empty_folder_name_is_refused_by_every_command(shapes: Path, words: tuple[str, ...]) -> None:
    done = job(*(word.format(source=shapes) for word in words))
    assert done.code == 78 and "empty (an unset variable?)" in done.err, done.err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_image_size_over_the_packs_short_side_is_refused_before_packing(
        shapes: Path, tmp_path: Path, make_grid: Grid, command: tuple[str, ...]) -> None:
    grid, sweep = make_grid(lr=[0.1, 0.1], image_size=["40", "320"]), tmp_path / "s"
    if command[0] == "train":
        command = (*command, "--image-size", "320", "--weights", "none")
    done = run(command, shapes, sweep, grid)
    assert done.code == 78 and "image_size 320 needs images with a short side of 366, and the pack would have 256; " \
        "give --short-side 366" in done.err, done.err
    if command[0] == "train":
        assert row(sweep, 1)["status"] == "failed" and "--short-side 366" in row(sweep, 1)["cause"]
    assert not (sweep / "pack").exists() and not (sweep / "grid.csv").exists()


def test_names_that_are_not_utf8_do_not_end_any_command_with_a_traceback(shapes: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    source, sweep = tmp_path / odd, tmp_path / "s"
    shutil.copytree(shapes, source)
    for name in ("bar/{}.jpg", "{}.jpg"):
        shutil.copy(shapes / "bar" / "bar00.jpg", source / name.format(odd))
    (tmp_path / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    done = job("sweep", "--images", source, "--grid", tmp_path / "g.csv", "--short-side", "48", sweep)
    assert done.code == 0 and r"rejected bar/caf\udce9.jpg: its name is not UTF-8" in done.out, done.err
    assert r"1 image in no class folder (caf\udce9.jpg)" in done.out
    for words in (("gather", sweep), ("predict", sweep, source / f"{odd}.jpg", "--trial", "1"),
                  ("sample", source / "new", "--num", "20"),
                  ("augment", source, "--image-size", "40", "--out", tmp_path / f"{odd}.png")):
        done = job(*words)
        assert done.code == 0 and "Traceback" not in done.err, done.err
    for bad in (("prepare", shapes, tmp_path / f"{odd}-s"), ("prepare", tmp_path / f"{odd}.csv", tmp_path / "n"),
                ("status", tmp_path / f"{odd}-s")):
        done = job(*bad)
        assert done.code in (66, 78) and "Traceback" not in done.err, done.err
    (source / odd).mkdir()
    shutil.copy(shapes / "bar" / "bar00.jpg", source / odd / "1.jpg")
    done = job("prepare", source, tmp_path / "s2", "--short-side", "48")
    assert done.code == 65 and "no usable image of class" in done.err


def test_sample_draws_into_s3_and_says_how_many(s3: S3) -> None:
    done = job("sample", "s3://bucket/drawn-by-sample", "--num", "21", **s3.env)
    names = s3.client().list_objects_v2(Bucket="bucket", Prefix="drawn-by-sample/")["Contents"]
    assert done.code == 0 and done.out == f"s3://bucket/drawn-by-sample: {len(names)} images\n"
    assert not (ROOT / "s3:").exists()
