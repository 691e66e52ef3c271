"""CSV files of labels as spreadsheets and people write them."""

import unicodedata
from pathlib import Path

import pytest

from job.data.source import read_source
from job.errors import BadData, MissingInput
from job.trial import ImageOptions
from support import S3, job

PLAIN = ImageOptions()


def write(folder: Path, data: str | bytes, *images: str, name: str = "labels.csv") -> str:
    """Write a CSV and empty images; return the CSV's path."""
    for image in images or ("1.jpg", "2.jpg", "3.jpg"):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(b"x")
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return str(folder / name)


def found(path: str) -> dict[str, str]:
    return {item.image: item.label for item in read_source(path, PLAIN).images}


HOT_DOG = {"1.jpg": "hot dog", "2.jpg": "cat", "3.jpg": "hot dog"}


@pytest.mark.parametrize("text", [
    'file,label\n1.jpg, "hot dog"\n2.jpg,cat\n3.jpg,hot dog\n',
    'file,label\n "1.jpg" ,"hot dog"\n"2.jpg", "cat"\n3.jpg,hot dog'.replace('" ,', '",'),
    "file,label\r\n1.jpg,hot dog\r\n\r\n2.jpg,cat\r\n3.jpg,hot dog\r\n",
    "file,label\r1.jpg,hot dog\r2.jpg,cat\r3.jpg,hot dog\r",
    "file;label\n1.jpg;hot dog\n2.jpg;cat\n3.jpg;hot dog\n",
    "sep=;\nfile;label\n1.jpg;hot dog\n2.jpg;cat\n3.jpg;hot dog\n",
    "file\tlabel\n1.jpg\thot dog\n2.jpg\tcat\n3.jpg\thot dog\n",
    "file|label\n1.jpg|hot dog\n2.jpg|cat\n3.jpg|hot dog\n",
    "file,label,\n1.jpg,hot dog,\n2.jpg,cat,\n3.jpg,hot dog,,\n,,\n",
    "file,label\n\n1.jpg,hot dog\n  \n2.jpg,cat\nfile,label\n3.jpg,hot dog\n",
    "file,label\n./1.jpg,hot dog\n.//2.jpg,cat\nsub/../3.jpg,hot dog\n",
    "1.jpg,hot dog\n2.jpg,cat\n3.jpg,hot dog\n",
    "file,label\n1.jpg,hot dog\u00a0\n2.jpg,\ufeffcat\n3.jpg,hot dog\u200b\n",
])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_of_a_csv_gives_the_same_labels(tmp_path: Path, text: str, encoding: str) -> None:
    assert found(write(tmp_path, text.encode(encoding))) == HOT_DOG


def test_tsv_is_a_table_of_labels(tmp_path: Path) -> None:
    text = "file\tlabel\n1.jpg\thot dog\n2.jpg\tcat\n3.jpg\thot dog\n"
    assert found(write(tmp_path, text, name="labels.tsv")) == HOT_DOG


def test_first_line_that_names_an_image_is_no_header(tmp_path: Path) -> None:
    source = read_source(write(tmp_path, "1.jpg,zebra\n2.jpg,cat\n3.jpg,dog\n"), PLAIN)
    assert source.classes == ["cat", "dog", "zebra"] and "its first line names an image" in source.notes[0]
    ids = read_source(write(tmp_path / "ids", "a,zebra\nb,cat\n", "images/a", "images/b"), PLAIN)
    assert ids.classes == ["cat", "zebra"]


@pytest.mark.parametrize(("text", "message"), [
    ("label,file\ncat,1.jpg\ndog,2.jpg\n", "line 2: the columns are swapped, 'cat' comes before the image '1.jpg'"),
    ("cat,1.jpg\ncat,2.jpg\ndog,3.jpg\n", "line 2: the columns are swapped"),
    ("id;file;label\n0;1.jpg;cat\n1;2.jpg;dog\n", "line 1: 3 columns; give two, the image's file name and its label, "
     "and remove the others"),
    ("file,label\n1.jpg,cat, small\n2.jpg,dog\n", "line 2: 3 columns; give two.*with ',' in it needs quotes"),
    ("file label\n1.jpg cat\n", "line 1: 1 column; give two, .*with ',' between them"),
    ('file,label\n1.jpg,"cat\n2.jpg,dog\n', "line 3: .*correct the quotes"),
    ("file,label\n1.jpg,cat\n./1.jpg,dog\n", "line 3: 1.jpg has the label 'dog' here and 'cat' before"),
    ("file,label\n/data/1.jpg,cat\n2.jpg,dog\n", "line 2: the path '/data/1.jpg' leaves the CSV's folder, /"),
])
def test_fault_of_a_csv_says_what_it_is(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        read_source(write(tmp_path, text), PLAIN)


@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1"])
def test_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(BadData, match="not UTF-8 text"):
        read_source(write(tmp_path, "file,label\n1.jpg,caf\u00e9\n2.jpg,cat\n".encode(encoding)), PLAIN)


def test_paths_into_the_csvs_own_folder_are_accepted(tmp_path: Path) -> None:
    top = tmp_path / "set"
    write(top, "", "1.jpg", "images/2.jpg", "12:30.jpg", "a\\b.jpg")
    (tmp_path / "link").symlink_to(top)
    lines = [f"{top}/1.jpg,cat", f"{tmp_path}/link/images/2.jpg,dog", "12:30.jpg,cat", "a\\b.jpg,dog",
             "../set/1.jpg,cat"]
    for place in (top, tmp_path / "link"):
        assert found(write(place, "\n".join(["file,label", *lines]), "1.jpg")) == {
            "1.jpg": "cat", "images/2.jpg": "dog", "12:30.jpg": "cat", "a\\b.jpg": "dog"}


def test_uris_into_the_csvs_own_prefix_are_accepted(s3_here: S3) -> None:
    lines = "file,label\ns3://bucket/labels/1.jpg,cat\nimages//2.jpg,dog\n3.jpg,dog\n"
    for key, body in (("1.jpg", b"x"), ("images/2.jpg", b"x"), ("images//3.jpg", b"x"), ("l.csv", lines.encode())):
        s3_here.client().put_object(Bucket="bucket", Key=f"labels/{key}", Body=body)
    source = read_source("s3://bucket/labels/l.csv", PLAIN)
    assert len(source.images) == 3 and not source.missing, source
    s3_here.client().put_object(Bucket="bucket", Key="labels/m.csv", Body=b"file,label\ns3://bucket/other/1.jpg,cat\n")
    with pytest.raises(BadData, match=r"line 2: the path 's3://bucket/other/1\.jpg' leaves the CSV's folder"):
        read_source("s3://bucket/labels/m.csv", PLAIN)


def test_csv_in_one_unicode_form_finds_files_in_the_other(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    text = f"file,label\n{decomposed}.jpg,{composed}\nsub/{composed}.jpg,{decomposed}\n3.jpg,tea\n"
    path = write(tmp_path, text, f"{composed}.jpg", f"sub/{decomposed}.jpg", "3.jpg")
    assert found(path) == {f"{composed}.jpg": composed, f"sub/{decomposed}.jpg": composed, "3.jpg": "tea"}


def test_repeated_lines_and_images_without_a_line_are_counted(tmp_path: Path) -> None:
    text = "file,label\n1.jpg,cat\n./1.jpg,cat\n2.jpg,dog\n2.jpg,dog\n"
    source = read_source(write(tmp_path, text, "1.jpg", "images/2.jpg", "3.jpg", "4.png", "notes.txt"), PLAIN)
    assert len(source.images) == 2
    assert source.notes[0].endswith("lines that repeat an image with the same label, passed over: 2")
    assert source.notes[1].startswith("2 images that ") and "(the first: 3.jpg)" in source.notes[1]


def test_names_without_their_ending_are_hinted_at(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"the first is 1; is it images/1\.jpg\?"):
        read_source(write(tmp_path, "id,label\n1,cat\n2,dog\n", "images/1.jpg", "images/2.jpg"), PLAIN)


def test_headerless_csv_says_so_where_its_first_class_is_too_small(spare_images: Path, tmp_path: Path) -> None:
    lines = [f"{path.relative_to(spare_images)},{path.parent.name}" for path in sorted(spare_images.rglob("*.jpg"))]
    lines[0] = lines[0].replace(",bar", ",zebra")
    (spare_images / "l.csv").write_text("\n".join(lines))
    done = job("prepare", spare_images / "l.csv", tmp_path / "s", "--short-side", "48")
    assert done.code == 65 and "class 'zebra' has 1 different image" in done.err
    assert "its first line names an image, so it is read as one" in done.err
