"""Where images and labels come from: class folders, split folders, CSV files, and what is refused."""

from pathlib import Path

import pytest

from job.data.source import read_source
from job.errors import BadData, MissingInput
from job.trial import ImageOptions
from support import S3, draw, shared

PLAIN = ImageOptions()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_class_folders_are_classes_and_what_file_managers_leave_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/deeper/2.jpg", "dog/1.png", "dog/.DS_Store", "dog/Thumbs.db", ".git/x/y",
          "notes.txt", "__MACOSX/cat/1.jpg")
    source = read_source(str(tmp_path), PLAIN)
    assert [(p.image, p.label, p.split) for p in source.images] == [
        ("cat/1.jpg", "cat", ""), ("cat/deeper/2.jpg", "cat", ""), ("dog/1.png", "dog", "")]
    assert source.classes == ["cat", "dog"]


def test_train_val_test_folders_are_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "valid/a/2.jpg", "val/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg")
    found = {p.image: (p.label, p.split) for p in read_source(str(tmp_path), PLAIN).images}
    assert found["valid/a/2.jpg"] == ("a", "val") and found["test/b/4.jpg"] == ("b", "test")
    assert found["train/a/1.jpg"] == ("a", "train")


def test_class_beside_train_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "c/1.jpg")
    with pytest.raises(BadData, match="c beside train/"):
        read_source(str(tmp_path), PLAIN)


def test_positive_makes_one_class_against_the_rest(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "bird/1.jpg")
    source = read_source(str(tmp_path), ImageOptions(positive="cat"))
    assert source.classes == ["other", "cat"]
    assert [p.label for p in source.images] == ["other", "cat", "other"]
    with pytest.raises(BadData, match="no class 'cow' for --positive; choose one of bird, cat, dog"):
        read_source(str(tmp_path), ImageOptions(positive="cow"))


def test_csv_with_bom_crlf_quotes_and_an_images_folder(tmp_path: Path) -> None:
    touch(tmp_path, "images/a, b.jpg", "2.jpg", "sub/3.jpg")
    lines = ['\ufefffile,what', '"a, b.jpg",yes', "2.jpg,no", "", "sub\\3.jpg,no", "gone.jpg,yes", ""]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode())
    source = read_source(str(tmp_path / "labels.csv"), PLAIN)
    assert [(p.image, p.label) for p in source.images] == [
        ("2.jpg", "no"), ("images/a, b.jpg", "yes"), ("sub/3.jpg", "no")]
    assert [p.image for p in source.missing] == ["gone.jpg"]


@pytest.mark.parametrize("path", [
    "../secret.jpg", "/etc/passwd", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg", "s3://b/x.jpg", ".."])
def test_csv_path_that_leaves_the_source_is_refused_with_its_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "labels.csv").write_text(f"file,what\nok.jpg,1\n{path},0\n")
    with pytest.raises(BadData, match=r"labels.csv, line 3: the path .* leaves the CSV's folder"):
        read_source(str(tmp_path / "labels.csv"), PLAIN)


@pytest.mark.parametrize(("text", "message"), [
    ("file,what,more\na.jpg,1,2\n", "line 1: 3 columns; give two"),
    ("file,what\na.jpg\n", "line 2: 1 column; give two"),
    ("file,what\na.jpg,\n", "line 2: the label is empty"),
    ("file,what\n,1\n", "line 2: the image is empty"),
    ("file,what\na.jpg,1\na.jpg,0\n", "line 3: a.jpg has the label '0' here and '1' before"),
])
def test_csv_fault_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(BadData) as caught:
        read_source(str(tmp_path / "labels.csv"), PLAIN)
    assert message in str(caught.value)


def test_csv_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,what\n\xff\xfe.jpg,1\n")
    with pytest.raises(BadData, match="not UTF-8"):
        read_source(str(tmp_path / "labels.csv"), PLAIN)


def test_empty_absent_and_one_class_sources_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no images"):
        read_source(str(tmp_path / "absent"), PLAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match="no images"):
        read_source(str(tmp_path / "empty"), PLAIN)
    with pytest.raises(MissingInput, match=r"absent\.csv"):
        read_source(str(tmp_path / "absent.csv"), PLAIN)
    touch(tmp_path, "one/cat/1.jpg")
    with pytest.raises(BadData, match="only one class, 'cat'"):
        read_source(str(tmp_path / "one"), PLAIN)


def test_s3_source_lists_as_the_folder_does(tmp_path: Path, s3_here: S3) -> None:
    for label in ("bar", "disc"):
        draw(tmp_path / label / "1.jpg", label, 1)
    uri = s3_here.upload(tmp_path, "listed")
    assert read_source(uri, PLAIN).images == read_source(str(tmp_path), PLAIN).images


def test_the_studys_own_csv_is_read() -> None:
    source = read_source(str(shared("data", "emergency", "emergency_classification.csv")), PLAIN)
    assert (len(source.images), source.missing, source.classes) == (201, [], ["0", "1"])
    assert sum(p.label == "1" for p in source.images) == 85


def test_split_folders_without_train_or_without_classes_are_refused(tmp_path: Path) -> None:
    for name in ("a/val/x/1.jpg", "a/test/x/1.jpg", "b/train/1.jpg", "b/train/x/1.jpg", "b/val/x/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadData, match="without train/"):
        read_source(str(tmp_path / "a"), ImageOptions())
    with pytest.raises(BadData, match=r"train/1\.jpg is not in a class folder"):
        read_source(str(tmp_path / "b"), ImageOptions())
