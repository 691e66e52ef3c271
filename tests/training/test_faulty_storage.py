"""Whole commands against storage that is late, garbled, away at the start, removed, or that cannot link."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from job.folder.storage import open_folder
from job.results.sweep import open_sweep
from job.training.options import SweepOptions
from proxy import Fault, What, proxy_to
from support import ROOT, S3, Grid, environment, job, row, start_job, timeless, wait_for_line

pytestmark = pytest.mark.slow


def keys(s3: S3, prefix: str) -> list[str]:
    return [item["Key"] for item in s3.client().list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])]


def test_sweep_is_whole_though_writes_come_late_and_answers_garbled(
        shapes: Path, make_grid: Grid, tmp_path: Path, s3: S3) -> None:
    grid, uri = make_grid(lr=[0.02], epochs=[4]), "s3://bucket/late"
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "quiet").code == 0
    with proxy_to(s3.env["AWS_ENDPOINT_URL"]) as proxy:
        done: list[int] = []
        for number, name in enumerate(("epochs.csv", "epochs.csv", "last.pt", "attempts/0001.json", "summary.xlsx")):
            proxy.faults.append(Fault("late", "PUT", f"late/{'trials/1/' * (number < 4)}{name}", skip=number % 2,
                                      until=lambda: bool(done)))
        kinds: list[What] = ["corrupt", "short", "cut", "drop"]
        for what in kinds:
            for part in ("passport.json", "safetensors", "grid.csv"):
                proxy.faults.append(Fault(what, "GET", part))
        env = {**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        result = job("sweep", "--images", shapes, "--grid", grid, uri, **env)
        assert result.code == 0, result.err
        done.append(1)
        proxy.settle()
        assert sum(line.startswith("delivered") for line in proxy.log) >= 4
    body = s3.client().get_object(Bucket="bucket", Key="late/trials/1/row.json")["Body"].read()
    assert timeless(json.loads(body)) == timeless(row(tmp_path / "quiet", "1"))
    body = s3.client().get_object(Bucket="bucket", Key="late/trials/1/epochs.csv")["Body"].read()
    assert body.count(b"\n") == 5
    assert "1 done" in job("status", uri, **s3.env).out


@pytest.mark.parametrize("text", ["epoch,train_loss,train_acc,val_loss,val_acc\n", None])
def test_epochs_are_taken_from_the_table_that_is_sure_and_a_short_one_is_noticed(
        shapes: Path, make_grid: Grid, tmp_path: Path, text: str | None) -> None:
    sweep = tmp_path / "s"
    assert job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], epochs=[3]), sweep).code == 0
    table = sweep / "trials" / "1" / "epochs.csv"
    whole = table.read_text()
    short = text if text is not None else "".join(whole.splitlines(keepends=True)[:2])
    table.write_text(short)
    done = job("gather", sweep)
    assert done.code == 0, done.err
    page = load_workbook(sweep / "summary.xlsx")["Trial 1"]
    assert any([cell.value for cell in column if isinstance(cell.value, int)][-3:] == [1, 2, 3]
               for column in page.iter_cols())
    assert len(open_sweep(str(sweep)).epochs("1")) == 3
    # A sweep of an older version has the one table.
    (sweep / "trials" / "1" / "epochs-0003.csv").unlink()
    done = job("gather", sweep)
    assert done.code == 65 and "epochs.csv" in done.err and "ran 3 epochs" in done.err, done.err
    table.write_text(whole)
    assert job("gather", sweep).code == 0


def test_command_that_starts_while_storage_is_away_waits_for_it(
        shapes: Path, make_grid: Grid, s3: S3, tmp_path: Path) -> None:
    args = ("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], epochs=[1]), "s3://bucket/away")
    with proxy_to(s3.env["AWS_ENDPOINT_URL"]) as proxy:
        env = {**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        proxy.faults += [Fault("drop", times=6), Fault("status", code=503, times=6), Fault("status", code=403, times=2)]
        done = job(*args, **env)
        assert done.code == 0, done.err
        assert done.err.count("waiting for it, 10 minutes at most") == 1
        assert done.err.count("in case a token is being renewed") == 1
        began = time.monotonic()
        proxy.faults[:] = [Fault("status", code=503, times=9999)]
        assert job(*args, **env, TRIALGRID_PATIENCE="1").code == 75 and time.monotonic() - began < 60


def test_sweep_that_is_removed_ends_the_command_and_is_not_made_again(
        shapes: Path, make_grid: Grid, tmp_path: Path, s3: S3) -> None:
    grid = make_grid(lr=[0.02, 0.03], epochs=[400, 400], batch_size=[4, 4])
    on_disk = start_job("sweep", "--images", shapes, "--grid", grid, tmp_path / "s")
    in_s3 = start_job("sweep", "--images", shapes, "--grid", grid, "s3://bucket/gone", **s3.env)
    wait_for_line(on_disk, "epoch 1/400")
    (tmp_path / "s").rename(tmp_path / "moved")
    out, _ = on_disk.communicate(timeout=60)
    assert on_disk.returncode == 66 and "removed while this process worked" in out, out
    assert not (tmp_path / "s").exists()
    wait_for_line(in_s3, "epoch 1/400")
    for key in keys(s3, "gone/"):
        s3.client().delete_object(Bucket="bucket", Key=key)
    out, _ = in_s3.communicate(timeout=60)
    assert in_s3.returncode == 66 and "removed while this process worked on it" in out, out
    assert not [key for key in keys(s3, "gone/") if "row.json" in key or "trials/2" in key]


def test_pack_that_is_removed_between_trials_begins_no_other(
        spare_sweep: Path, make_grid: Grid) -> None:
    from job.data.pack import read_passport
    from job.errors import SweepRemoved
    from job.folder.grid import read_grid
    from job.training.display import open_display
    from job.training.sweep import train_left

    folder = open_folder(str(spare_sweep))
    passport, trials = read_passport(folder), read_grid(folder)
    assert passport
    (spare_sweep / "trials" / "1" / "row.json").unlink()
    (spare_sweep / "pack" / "passport.json").unlink()
    attempts = len(list((spare_sweep / "trials" / "1" / "attempts").iterdir()))
    with open_display() as display, pytest.raises(SweepRemoved):
        train_left(folder, trials, passport, display, SweepOptions(), {})
    assert len(list((spare_sweep / "trials" / "1" / "attempts").iterdir())) == attempts


WITHOUT_LINKS = """
import errno, os, sys
from job.folder import temporary
def link(*paths): raise OSError(errno.EPERM, "Operation not permitted")
os.link = link
if sys.argv.pop(1) == "no rename": temporary.rename_once = lambda old, new: None
from job.cli.main import main
main()
"""


@pytest.mark.parametrize("rename", ["rename", "no rename"])
def test_sweep_on_a_file_system_without_hard_links_is_done(
        shapes: Path, make_grid: Grid, tmp_path: Path, rename: str) -> None:
    grid = make_grid(lr=[0.02], epochs=[1])
    args: list[Any] = ["sweep", "--images", shapes, "--grid", grid, tmp_path / "s"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_LINKS, rename, *map(str, args)], capture_output=True,
                          text=True, env=environment(), cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert row(tmp_path / "s", 1)["status"] == "done"


def test_keys_in_uris_are_refused_and_stored_nowhere(shapes: Path, tmp_path: Path, s3: S3) -> None:
    signed = "https://bucket.s3.amazonaws.com/w.pt?X-Amz-Signature=open-sesame"
    sweep, grid = tmp_path / "s", tmp_path / "g.csv"
    grid.write_text(f"trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,{signed}\n")
    (tmp_path / "good.csv").write_text("trial,lr\n1,0.1\n")
    jobs = ("--grid", tmp_path / "good.csv", "--image", "x")
    for done in (job("sweep", "--images", "s3://AKIA:open-sesame@bucket/images", *jobs[:2], sweep),
                 job("prepare", "s3://AKIA:open-sesame@bucket/images", sweep),
                 job("sweep", "--images", shapes, "--grid", grid, sweep),
                 job("manifests", "s3://AKIA:open-sesame@bucket/s", *jobs),
                 job("manifests", sweep, *jobs, "--images", "s3://AKIA:open-sesame@bucket/s"),
                 job("train", "s3://AKIA:open-sesame@bucket/s", "--trial", "1"),
                 job("train", sweep, "--trial", "1", "--weights", signed, "--images", shapes)):
        assert done.code == 78 and "sesame" not in done.out + done.err, done.err
    assert not any(b"sesame" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != grid)


def test_password_of_the_endpoint_is_neither_shown_nor_stored(shapes: Path, make_grid: Grid, s3: S3) -> None:
    endpoint = s3.env["AWS_ENDPOINT_URL"].replace("://", "://user:open-sesame@")
    env = {**s3.env, "AWS_ENDPOINT_URL": endpoint, "TRIALGRID_VERBOSE": "1"}
    with proxy_to(s3.env["AWS_ENDPOINT_URL"]) as proxy:
        env["AWS_ENDPOINT_URL"] = proxy.endpoint.replace("://", "://user:open-sesame@")
        proxy.faults.append(Fault("drop", "GET", "sesame-images", times=999))
        done = job("prepare", "s3://bucket/sesame-images", "s3://bucket/password", **env, TRIALGRID_PATIENCE="1")
    assert done.code == 75 and "open-sesame" not in done.out + done.err, done.err
    for key in keys(s3, "password/"):
        assert b"open-sesame" not in s3.client().get_object(Bucket="bucket", Key=key)["Body"].read()
