"""Damaged files of a sweep are named or passed over, and a signal that comes early still ends the sweep."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from job.errors import BadConfig
from job.training.checkpoint import read_checkpoint
from job.trial import Trial
from support import job, start_job, wait_for_line


def flip_a_byte(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)


def train_again(spare_sweep: Path) -> tuple[int, str]:
    (spare_sweep / "trials" / "1" / "row.json").unlink(missing_ok=True)
    done = job("train", spare_sweep, "--trial", "1")
    assert "Traceback" not in done.err + done.out
    return done.code, done.err


def test_damaged_and_missing_shards_are_named_not_trained_on(spare_sweep: Path) -> None:
    (spare_sweep / "trials" / "1" / "last.pt").unlink()
    shard = next((spare_sweep / "pack").glob("*.safetensors"))
    flip_a_byte(shard)
    code, text = train_again(spare_sweep)
    assert code == 65 and shard.name in text and "damaged" in text and "passport.json" in text
    shard.unlink()
    code, text = train_again(spare_sweep)
    assert code == 66 and shard.name in text and "missing" in text


def test_damaged_checkpoint_is_noticed_wherever_the_damage_is(spare_sweep: Path) -> None:
    whole = (spare_sweep / "trials" / "1" / "last.pt").read_bytes()
    saved = torch.load(spare_sweep / "trials" / "1" / "last.pt", weights_only=True)
    trial = Trial(**saved["trial"])
    read_checkpoint(whole, trial, saved["pack_hash"], "last.pt")
    for share in (0.01, 0.2, 0.5, 0.8, 0.99):
        data = bytearray(whole)
        data[int(len(data) * share)] ^= 0xFF
        with pytest.raises(BadConfig, match=r"damaged checkpoint"):
            read_checkpoint(bytes(data), trial, saved["pack_hash"], "last.pt")
    (spare_sweep / "trials" / "1" / "last.pt").write_bytes(whole[:-1000])
    code, text = train_again(spare_sweep)
    assert code == 78 and "last.pt" in text and "delete it" in text


@pytest.mark.parametrize(("name", "text", "command", "code"), [
    ("pack/passport.json", "", "train", 78), ("pack/passport.json", "{}", "train", 78),
    ("trials/1/attempts/0001.json", "{", "status", 0), ("trials/1/attempts/0001.json", "{}", "status", 0),
    ("trials/1/epochs-0001.csv", "epoch,train_loss,train_acc,val_loss,val_acc\ninf,1,1,1,1\n", "gather", 65),
    ("trials/1/row.json", "{", "gather", 65), ("trials/1/row.json", "[]", "status", 65),
    ("trials/1/row.json", "[]", "train", 78), ("trials/1/row.json", "[]", "sweep", 78),
    ("summary.json", "{", "gather", 0)])
def test_damaged_small_files_are_named_or_passed_over(
        spare_sweep: Path, name: str, text: str, command: str, code: int) -> None:
    (spare_sweep / name).write_text(text)
    if "attempts" in name:
        (spare_sweep / "trials" / "1" / "row.json").unlink()
    done = job(command, spare_sweep, *(["--trial", "1"] if command == "train" else []))
    assert done.code == code, done.err
    assert "Traceback" not in done.err and (code == 0 or name.rsplit("/", maxsplit=1)[-1] in done.err)


def test_text_in_brackets_is_shown_not_taken_for_markup(spare_sweep: Path) -> None:
    path = spare_sweep / "trials" / "1" / "row.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "weights": "[/a][x]/w.pth"}))
    done = job("gather", spare_sweep)
    assert done.code == 0 and "[/a][x]/w.pth" in done.out


def test_sigterm_while_a_trial_concludes_ends_the_sweep_after_it(shapes: Path, make_grid: Callable[..., Path],
                                                                 tmp_path: Path) -> None:
    grid = make_grid(lr=[0.01, 0.02, 0.03], epochs=[1, 1, 1])
    process = start_job("sweep", "--images", shapes, "--grid", grid, tmp_path / "s")
    wait_for_line(process, "epoch 1/1")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert not (tmp_path / "s" / "trials" / "3").exists()
