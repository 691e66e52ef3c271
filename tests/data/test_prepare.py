"""Who builds the pack, from what, and what happens when several do: the pack is whole or absent."""

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
from support import draw


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
