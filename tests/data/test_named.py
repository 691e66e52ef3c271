"""The images of a command line: files, folders, patterns, objects and prefixes; what no image can be is passed over."""

from pathlib import Path

import pytest

from job.data.named import images_named
from job.errors import BadConfig, MissingInput
from support import S3

FILES = ("a/1.jpg", "a/2.PNG", "a/deep/3.jpeg", "b/4", "b/notes.txt", "b/.hidden.jpg", "b/Thumbs.db", "b/[x].jpg")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Some empty files, none of which is read."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def shown(*arguments: object) -> list[str]:
    """The names of the images, as the user knows them."""
    return [image.shown for image in images_named([str(argument) for argument in arguments])]


def test_folder_gives_its_images_and_those_below_it_sorted(files: Path) -> None:
    assert shown(files) == [f"{files}/{name}" for name in ("a/1.jpg", "a/2.PNG", "a/deep/3.jpeg", "b/4", "b/[x].jpg")]


def test_file_is_taken_whatever_its_name_and_in_the_order_of_the_arguments(files: Path) -> None:
    names = [files / "b/notes.txt", files / "a/1.jpg", files / "absent.jpg", files / "b/[x].jpg"]
    assert shown(*names) == [*map(str, names)]


def test_pattern_stays_within_a_folder_and_two_stars_do_not(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    assert shown("a/*.jpg") == ["a/1.jpg"] and shown("?/[0-2].*") == ["a/1.jpg", "a/2.PNG"]
    assert shown("**/*.jp*g") == ["a/1.jpg", "a/deep/3.jpeg", "b/[x].jpg"]
    assert shown("a/**") == ["a/1.jpg", "a/2.PNG", "a/deep/3.jpeg"]
    assert shown("[!b]") == shown("a") == ["a/1.jpg", "a/2.PNG", "a/deep/3.jpeg"]
    assert shown(f"{files}/a/**/3*") == [f"{files}/a/deep/3.jpeg"]


def test_links_in_a_circle_end(files: Path) -> None:
    (files / "a" / "again").symlink_to(files)
    assert len(shown(files / "a")) == len(shown(f"{files}/a/**/*")) == 3


@pytest.mark.parametrize("argument", ["empty", "a/*.gif", "**/*.gif", "notes"])
def test_nothing_to_answer_for_is_missing_input_with_the_reason(files: Path, argument: str) -> None:
    (files / "empty").mkdir()
    (files / "notes").mkdir()
    (files / "notes" / "one.txt").write_text("no image")
    with pytest.raises(MissingInput, match=r"no file matches|no image in this folder"):
        shown(files / argument)


def test_objects_prefixes_and_patterns_of_a_store(files: Path, s3_here: S3) -> None:
    uri = s3_here.upload(files, "named")
    assert shown(uri) == shown(f"{uri}/") == [f"{uri}/{name}" for name in ("a/1.jpg", "a/2.PNG", "a/deep/3.jpeg", "b/4",
                                                                          "b/[x].jpg")]
    assert shown(f"{uri}/a/1.jpg", f"{uri}/b/4") == [f"{uri}/a/1.jpg", f"{uri}/b/4"]
    assert shown(f"{uri}/a/de") == shown(f"{uri}/*/deep/*") == shown(f"{uri}/**/3.*") == [f"{uri}/a/deep/3.jpeg"]
    assert shown(f"{uri}/b/[x].jpg") == [f"{uri}/b/[x].jpg"]
    for nothing in ("none", "a/*.gif"):
        with pytest.raises(MissingInput):
            shown(f"{uri}/{nothing}")
    with pytest.raises(BadConfig, match="not supported"):
        shown("https://example.org/a")
