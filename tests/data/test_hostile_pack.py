"""Whoever can write to a sweep folder can neither write elsewhere by it, nor make its reader read past a buffer."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save

from job.data.load import load_batches
from job.data.pack import UNHASHED, Passport, read_passport
from job.errors import BadConfig, BadData
from job.folder.storage import Folder, open_folder
from job.trial import Trial
from packs import pack
from support import S3, job

TRIAL = Trial(trial="1", image_size=40, model="mlp", weights="none")


@pytest.fixture
def sweep(packed: tuple[Folder, Passport], tmp_path: Path) -> Path:
    """A copy of the small pack, free to be spoilt."""
    return Path(shutil.copytree(packed[0].uri, tmp_path / "sweep"))


def load(sweep: Path) -> None:
    folder = open_folder(str(sweep))
    passport = read_passport(folder)
    assert passport
    load_batches(folder, passport, TRIAL, torch.device("cpu"))


def change(sweep: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the passport in place."""
    path = sweep / "pack" / "passport.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def key(*path: Any, value: Any) -> Callable[[dict[str, Any]], object]:
    """A change of one key of the passport."""

    def put(found: Any) -> None:
        for part in path[:-1]:
            found = found[part]
        found[path[-1]] = value

    return put


H = "0" * 64
PASSPORTS = {
    "absolute table": key("table", "name", value="/root/.bashrc"),
    "table above": key("table", "name", value="../x.csv"),
    "table with another hash": key("table", "sha256", value=H), "no table": key("table", value={}),
    "table is a list": key("table", value=[]), "absolute shard": key("shards", 0, "name", value="/etc/passwd"),
    "shard above": key("shards", 0, "name", value="../pixels-00000-0000000000000000.safetensors"),
    "shard with NUL": key("shards", 0, "name", value="pixels-00000-0000000000000000.safetensors\0"),
    "shard with a newline": key("shards", 0, "name", value="pixels-00000-0000000000000000.safetensors\n"),
    "shard is text": key("shards", 0, value="x"), "no shards": key("shards", value=[]),
    "negative bytes": key("shards", 0, "bytes", value=-1), "bytes is true": key("shards", 0, "bytes", value=True),
    "bytes is huge": key("shards", 0, "bytes", value=10**17), "bytes is text": key("shards", 0, "bytes", value="9"),
    "images is a fraction": key("shards", 0, "num_images", value=1.5),
    "no images": key("shards", 0, "num_images", value=0),
    "more images": key("num_images", value=41), "negative count": key("counts", "train", "bar", value=-1),
    "more in train": key("counts", "train", "bar", value=99),
    "no val": key("counts", "val", value={"bar": 0, "disc": 0}),
    "unknown split": key("counts", "dev", value={}), "no count": key("counts", value={}),
    "one class": key("classes", value=["bar"]), "class twice": key("classes", value=["bar", "bar"]),
    "class is a number": key("classes", value=["bar", 1]), "other class": key("classes", value=["bar", "ring"]),
    "positive is no class": key("positive", value="ring"), "no short side": key("options", value={}),
    "short side of 0": key("options", "short_side", value=0),
    "short side is text": key("options", "short_side", value="46"),
    "huge short side": key("options", "short_side", value=10**9), "hash is a path": key("pack_hash", value="../../x"),
    "rejected is text": key("rejected", value=["x"]), "no reason": key("rejected", value=[{"image": "x"}]),
    "warning is a list": key("warnings", value=[["x"]]), "NaN": key("num_images", value=float("nan"))}


@pytest.mark.parametrize("spoil", PASSPORTS.values(), ids=PASSPORTS.keys())
def test_passport_that_contradicts_itself_is_refused_before_a_file_is_read(
        spoil: Callable[[dict[str, Any]], object], sweep: Path) -> None:
    change(sweep, spoil)
    with pytest.raises(BadConfig, match=r"pack/passport\.json: .*delete it"):
        read_passport(open_folder(str(sweep)))


def write_table(sweep: Path, lines: list[dict[str, str]]) -> None:
    """Write another table, and a passport that names it."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    name_table(sweep, text.getvalue().encode())


def name_table(sweep: Path, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    (sweep / "pack" / f"images-{sha256[:16]}.csv").write_bytes(data)
    change(sweep, key("table", value={"name": f"images-{sha256[:16]}.csv", "sha256": sha256}))


LINES = {
    "height": {"height": "47"}, "larger": {"height": "460", "width": "460"}, "zero": {"width": "0"},
    "negative": {"width": "-46"}, "fraction": {"width": "46.0"}, "huge": {"width": "9" * 30}, "digits": {"width": "٤٦"},
    "label": {"label": "ring"}, "split": {"split": "dev"}, "other split": {"split": "test", "label": "bar"},
    "shard": {"shard": "1"}, "negative shard": {"shard": "-1"}, "no name": {"image": ""}}


@pytest.mark.parametrize("cells", LINES.values(), ids=LINES.keys())
def test_table_that_contradicts_the_passport_is_refused_with_its_line(cells: dict[str, str], sweep: Path) -> None:
    lines = list(csv.DictReader(next((sweep / "pack").glob("images-*.csv")).open(newline="")))
    place = next(number for number, line in enumerate(lines) if line["split"] == "train")
    write_table(sweep, [line | cells if number == place else line for number, line in enumerate(lines)])
    with pytest.raises(BadData, match=r"images-.*\.csv: .*passport\.json to make the pack again"):
        load(sweep)


def test_table_that_is_short_long_or_no_table_is_refused(sweep: Path) -> None:
    path = next((sweep / "pack").glob("images-*.csv"))
    whole = path.read_bytes()
    first = whole.split(b"\n")[1] + b"\n"
    for data in (b"", b"\xff\xfe", b"a,b\n1,2\n", whole[:-len(first)], whole + first, whole + b"x,bar\n", whole + b'"',
                 whole.replace(first, b"x" * 200_000 + b"\n"), whole.replace(b"image,", b"name,")):
        name_table(sweep, data)
        with pytest.raises(BadData, match=r"images-.*\.csv: "):
            load(sweep)


def test_shard_that_holds_less_than_the_table_says_is_refused_though_its_hash_is_right(sweep: Path) -> None:
    path = next((sweep / "pack").glob("pixels-*"))
    pixels = load_file(path)["pixels"]
    as_numbers = pixels[:len(pixels) // 4 * 4].view("float32")
    for data in (save({"pixels": pixels[:-1]}), save({"pixels": pixels.reshape(-1, 3)}), save({"pixels": as_numbers}),
                 save({"other": pixels}), b"", b"\xff" * 100, path.read_bytes()[:-1]):
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"pixels-00000-{sha256[:16]}.safetensors"
        (sweep / "pack" / name).write_bytes(data)
        for part, value in (("name", name), ("sha256", sha256), ("bytes", max(1, len(data)))):
            change(sweep, key("shards", 0, part, value=value))
        with pytest.raises(BadData, match=rf"{name}: this file of the pack is damaged"):
            load(sweep)


def test_name_in_a_passport_overwrites_no_file_of_who_trains_from_it(
        shapes: Path, s3: S3, tmp_path: Path) -> None:
    """At the command line, from a bucket: the cache's folder / an absolute name would be that name."""
    uri, victim = "s3://bucket/hostile", tmp_path / "bashrc"
    victim.write_text("mine")
    grid = tmp_path / "g.csv"
    grid.write_text("trial,lr,epochs,batch_size,image_size,model,weights\n1,0.01,1,8,40,mlp,none\n")
    assert job("prepare", shapes, uri, "--grid", grid, "--short-side", 48, **s3.env).code == 0
    client = s3.client()
    passport = json.loads(client.get_object(Bucket="bucket", Key="hostile/pack/passport.json")["Body"].read())
    data = b"image,label,split\n"
    passport["table"] = {"name": str(victim), "sha256": hashlib.sha256(data).hexdigest()}
    client.put_object(Bucket="bucket", Key="hostile/pack/passport.json", Body=json.dumps(passport).encode())
    client.put_object(Bucket="bucket", Key=f"hostile/pack/{victim}", Body=data)
    done = job("train", uri, "--trial", "1", TMPDIR=str(tmp_path), **s3.env)
    assert done.code == 78 and "table.name" in done.err and "Traceback" not in done.err, done.err
    assert victim.read_text() == "mine"


def test_names_that_look_like_formulas_are_escaped_in_the_table_and_the_pack_keeps_its_hash(
        shapes: Path, tmp_path: Path) -> None:
    for label in ("-1", "=2"):
        for path in (shapes / "disc").iterdir():
            target = tmp_path / "in" / label / f"@{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes() + label.encode())
    passport = pack(tmp_path / "in", tmp_path / "sweep")
    assert passport.classes == ["-1", "=2"]
    text = (tmp_path / "sweep" / "pack" / passport.table["name"]).read_text()
    assert "\n'-1/@disc00.jpg,-1," in text and "\n'=2/@disc00.jpg,'=2," in text
    folder = open_folder(str(tmp_path / "sweep"))
    batches = load_batches(folder, passport, Trial(trial="1", image_size=40, model="mlp", weights="none"),
                           torch.device("cpu"))
    assert {name.split("/")[0] for name in batches.names} == {"-1", "=2"}
    hashed = text.partition("\n")[2].replace("'", "")
    core = [{name: value for name, value in passport.options.items() if name not in UNHASHED}, passport.classes,
            [shard["sha256"] for shard in passport.shards],
            hashlib.sha256(b"picture,label,split,height,width,shard,sha256\n" + hashed.encode()).hexdigest()]
    assert passport.pack_hash == hashlib.sha256(json.dumps(core).encode()).hexdigest()
