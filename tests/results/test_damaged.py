"""One damaged file of one trial: that trial is left out and named, the rest is complete, and the exit code says 65."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import job as package
from job.cluster.status import sweep_status
from job.errors import BadData, JobError
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.results.gather import gather
from job.results.predict import load_predictor
from job.results.summary import collect
from sheets import read
from support import job, start_job, wait_for_line

PREDICTIONS = "split,image,label,predicted,p bar,p disc\n"
LINE = "val,a.jpg,bar,bar,1,0\n"
HEAD = b"epoch,train_loss,train_acc,val_loss,val_acc\n"
DAMAGE: dict[str, tuple[str, bytes]] = {
    "no JSON": ("row.json", b"{"), "empty row": ("row.json", b""), "no object": ("row.json", b"[]"),
    "deep row": ("row.json", b'{"trial":' * 50_000), "row not UTF-8": ("row.json", b"\xff\xfe{"),
    "huge cell": ("epochs-0002.csv", HEAD + b"1," + b"1" * 200_000 + b",1,1,1\n"),
    "epochs not UTF-8": ("epochs-0002.csv", b"epoch,train_loss\n\xff\xff"),
    "no numbers": ("epochs-0002.csv", b"epoch\nx\n"),
    "empty predictions": ("predictions.csv", b""), "no predictions": ("predictions.csv", PREDICTIONS.encode()),
    "other columns": ("predictions.csv", b"a,b\n1,2\n"), "not UTF-8": ("predictions.csv", b"\xff\xfe\n"),
    "image twice": ("predictions.csv", f"{PREDICTIONS}{2 * LINE}".encode()),
    "no class": ("predictions.csv", f"{PREDICTIONS}{LINE.replace('bar,1', 'ring,1')}".encode()),
    "no split": ("predictions.csv", f"{PREDICTIONS}{LINE.replace('val', 'dev')}".encode()),
    "no number": ("predictions.csv", f"{PREDICTIONS}{LINE.replace('1', 'x')}".encode()),
    "no probability": ("predictions.csv", f"{PREDICTIONS}{LINE.replace('1', '2')}".encode()),
    "not correct": ("predictions.csv", f"{PREDICTIONS}{LINE}".replace("predicted", "predicted,correct").replace(
        "bar,1", "bar,False,1").encode()),
    "class without a column": ("predictions.csv", f"{PREDICTIONS}{LINE}".replace("p disc", "p ring").encode()),
    "same columns twice": ("predictions.csv", f"{PREDICTIONS}{LINE}".replace("p disc", "p_bar").encode()),
    "one more cell": ("predictions.csv", f"{PREDICTIONS}x,{LINE}".encode()),
    "open quote": ("predictions.csv", f"{PREDICTIONS}{LINE.replace('a.jpg', chr(34))}".encode()),
    "equal columns": ("predictions.csv", b"a," * 200_000 + b"\n"),
    "no epochs": ("epochs-0002.csv", b""), "epochs of another": ("epochs-0002.csv", HEAD + b"1,1,1,1,1\n")}
VALUES: dict[str, object] = {
    "epochs": "x", "lr": None, "trial": "1", "status": "fine", "best_val_acc": "0.9", "test_confusion": [[1, "x"]],
    "classes": "bar", "cause": 7, "num_val": -0.5, "versions": [1], "best_monitor": "loss", "image_size": 10**30,
    "host": "\ud800", "num_test": -1, "pack_hash": ["p"], "best_epoch": {}, "epochs_run": 2**52}


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two trials, the second the best; no test may change it."""
    folder = tmp_path_factory.mktemp("trained")
    grid = folder / "g.csv"
    grid.write_text("trial,lr,epochs,batch_size,image_size,model,weights\n"
                    "1,1e-9,1,8,40,mlp,none\n2,0.01,2,8,40,mlp,none\n")
    done = job("sweep", "--images", shapes, "--grid", grid, "--short-side", 48, "--val", 0.5,
               folder / "sweep")
    assert done.code == 0, done.err
    # So that both trials beat always saying one class, and the second is the best, whatever the machine computes.
    for trial in ("1", "2"):
        path = folder / "sweep" / "trials" / trial / "predictions.csv"
        lines = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("".join(",".join([*line[:3], line[2] if number else line[3], "True" if number else line[4],
                                          *line[5:]]) + "\n" for number, line in enumerate(lines)))
    change(folder / "sweep" / "trials" / "2", best_val_acc=1.0)
    change(folder / "sweep" / "trials" / "1", best_val_acc=0.5)
    return folder / "sweep"


def change(folder: Path, **values: Any) -> None:
    """Change values of a trial's row."""
    path = folder / "row.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Path:
    """A copy, free to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "sweep"))


def check_left_out(sweep: Path, file: str) -> None:
    """Trial 2 is left out and named everywhere, trial 1 is there."""
    folder = LocalFolder(str(sweep))
    summary, _, _ = gather(folder)
    assert summary.table["trial"].tolist() == ["1"] and summary.best is not None
    assert [(item.trial, item.file) for item in summary.damaged] == [("2", f"trials/2/{file}")]
    named = f"left out, because a file is damaged: trial 2: {sweep}/trials/2/{file}: "
    texts = [cell.value for sheet in read(folder) for row in sheet.iter_rows() for cell in row
             if isinstance(cell.value, str)]
    about = json.loads((sweep / "summary.json").read_text())
    assert all(any(text.startswith(named) for text in found) for found in (texts, about["notes"]))
    assert about["damaged"][0]["trial"] == "2" and about["missing"] == []
    status = sweep_status(folder)
    assert {item.trial.trial: item.state for item in status} == {
        "1": "done", "2": "damaged" if file == "row.json" else "done"}
    assert [item.file for item in status.damaged] == (["trials/2/row.json"] if file == "row.json" else [])
    assert load_predictor(folder).trial == "1"
    with pytest.warns(UserWarning, match=rf"trial 2: .*{file}"):
        assert package.open(str(sweep)).table["trial"].tolist() == ["1"]


@pytest.mark.parametrize(("file", "data"), DAMAGE.values(), ids=DAMAGE.keys())
def test_trial_with_a_damaged_file_is_left_out_and_named(file: str, data: bytes, sweep: Path) -> None:
    (sweep / "trials" / "2" / file).write_bytes(data)
    check_left_out(sweep, file)


@pytest.mark.parametrize("key", VALUES)
def test_trial_with_a_wrong_value_in_its_row_is_left_out_and_named(key: str, sweep: Path) -> None:
    change(sweep / "trials" / "2", **{key: VALUES[key]})
    check_left_out(sweep, "row.json")


def test_commands_name_the_file_write_the_rest_and_end_with_65(sweep: Path, shapes: Path) -> None:
    change(sweep / "trials" / "2", epochs="x")
    for args in (("gather", sweep), ("status", sweep), ("gather", sweep, "--json"), ("status", sweep, "--json"),
                 ("status", sweep, "--watch")):
        done = job(*args)
        assert done.code == 65 and "trials/2/row.json: epochs is 'x'" in done.err, done
        assert "Traceback" not in done.err and "trials/2/row.json" in done.out
        if "--json" in args:
            assert json.loads(done.out)["damaged"][0]["file"] == "trials/2/row.json"
    assert (sweep / "summary.xlsx").exists()
    done = job("predict", sweep, shapes / "bar" / "bar00.jpg")
    assert done.code == 0 and "best weights of trial 1" in done.out, done
    assert "Use trial 1 (lr" in done.err and "trials/2/row.json" in done.err, done
    for command in (("sweep", sweep), ("train", sweep, "--trial", "2")):
        done = job(*command)
        assert done.code == 78 and "trials/2/row.json" in done.err and "Traceback" not in done.err, done


def test_gather_that_watches_waits_for_the_others_of_a_damaged_row_and_ends_with_65(sweep: Path) -> None:
    row = sweep / "trials" / "1" / "row.json"
    whole = row.read_text()
    row.unlink()
    change(sweep / "trials" / "2", epochs="x")
    processes = [start_job("gather", sweep, "--watch", "-v", *args) for args in ((), ("--json",))]
    for process in processes:
        # It has gathered once, and looks again.
        wait_for_line(process, f"read {sweep}/pack/passport.json")
        wait_for_line(process, f"list {sweep}/trials/")
    row.write_text(whole)
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 65 and "trials/2/row.json" in out and "Traceback" not in out, out


def test_names_that_look_like_formulas_are_escaped_in_predictions_and_read_back(shapes: Path, tmp_path: Path) -> None:
    for label in ("=1+1", "-1"):
        for path in (shapes / "disc").iterdir():
            target = tmp_path / "in" / label / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes() + label.encode())
    grid, sweep = tmp_path / "g.csv", tmp_path / "sweep"
    grid.write_text("trial,lr,epochs,batch_size,image_size,model,weights\n1,0.01,1,8,40,mlp,none\n")
    done = job("sweep", "--images", tmp_path / "in", "--grid", grid, "--short-side", 48, sweep)
    assert done.code == 0, done.err
    with (sweep / "trials" / "1" / "predictions.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell.startswith(("=", "+", "@", "-")) and cell != "-1" for cell in cells) and "'=1+1" in cells
    found = package.open(str(sweep)).predictions(1)
    assert set(found["label"]) == {"=1+1", "-1"} and set(found["image"].str.split("/").str[0]) == {"=1+1", "-1"}


def test_damaged_row_that_the_grid_does_not_name_is_named_too(sweep: Path) -> None:
    for name in ("9", "x y"):
        (sweep / "trials" / name).mkdir()
        (sweep / "trials" / name / "row.json").write_text((sweep / "trials" / "2" / "row.json").read_text())
    change(sweep / "trials" / "x y", trial="x y")
    found, status = collect(open_folder(str(sweep))), sweep_status(open_folder(str(sweep)))
    assert [item.trial for item in found.damaged] == [item.trial for item in status.damaged] == ["9", "x y"]
    assert found.table["trial"].tolist() == ["2", "1"] and [item.trial.trial for item in status] == ["1", "2"]


def test_sweep_of_damaged_rows_alone_says_so(sweep: Path) -> None:
    for name in ("1", "2"):
        (sweep / "trials" / name / "row.json").write_text("{}")
    with pytest.raises(BadData, match=r"2 damaged files left out.*trials/1/row\.json"):
        collect(open_folder(str(sweep)))


def about_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the `about` in the header of best weights, and all that follows the header."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(json.loads(data[8:8 + length])["__metadata__"]["trialgrid"])), data[8 + length:]


ABOUTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "classes": lambda about: about.update(classes=["bar"]), "a third class": lambda about: about["classes"].append("x"),
    "class twice": lambda about: about.update(classes=["bar", "bar"]),
    "class is a number": lambda about: about.update(classes=["bar", 1]),
    "short side": lambda about: about.update(short_side=10**9), "small": lambda about: about.update(short_side=40),
    "wide": lambda about: about["settings"].update(hidden="99999-99999"),
    "model": lambda about: about["settings"].update(model="resnet18"),
    "no settings": lambda about: about.pop("settings"),
    "precision": lambda about: about.update(precision="int1"),
    "epochs": lambda about: about["settings"].update(epochs="x"),
    "threshold": lambda about: about.update(threshold_margin="x"),
    "image": lambda about: about["settings"].update(image_size=64)}


@pytest.mark.parametrize("spoil", ABOUTS.values(), ids=ABOUTS.keys())
def test_weights_that_do_not_fit_their_header_classify_nothing(
        spoil: Callable[[dict[str, Any]], object], sweep: Path) -> None:
    path = sweep / "trials" / "2" / "best.safetensors"
    data = path.read_bytes()
    about, rest = about_of(data)
    spoil(about)
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    header["__metadata__"]["trialgrid"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    with pytest.raises(JobError, match=r"best\.safetensors"):
        load_predictor(open_folder(str(sweep)), "2")
