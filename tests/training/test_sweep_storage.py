"""Whole sweeps in S3, and storage that denies, fails or goes away."""

import json
import os
import signal
from pathlib import Path

import pytest

from server import make_bucket, start_s3
from support import KEYS, S3, Grid, job, row, start_job, timeless, wait_for_line

pytestmark = pytest.mark.slow


def test_sweep_in_s3_equals_the_one_on_disk(shapes: Path, make_grid: Grid, tmp_path: Path, s3: S3) -> None:
    grid, uri = make_grid(lr=[0.02], epochs=[2]), "s3://bucket/study"
    images = s3.upload(shapes, "shapes")
    s3.client().put_object(Bucket="bucket", Key="grids/g.csv", Body=grid.read_bytes())
    done = job("sweep", "--images", images, "--grid", "s3://bucket/grids/g.csv", uri, **s3.env)
    assert done.code == 0, done.err
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "local").code == 0
    remote = json.loads(s3.client().get_object(Bucket="bucket", Key="study/trials/1/row.json")["Body"].read())
    assert timeless(remote) == timeless(row(tmp_path / "local", "1"))
    keys = {item["Key"] for item in s3.client().list_objects_v2(Bucket="bucket", Prefix="study/")["Contents"]}
    assert {"study/summary.xlsx", "study/pack/passport.json", "study/trials/1/best.safetensors",
            "study/trials/1/last.pt", "study/trials/1/epochs-0002.csv"} <= keys
    image = f"{images}/disc/disc00.jpg"
    assert f"{image}  " in job("predict", uri, image, "--trial", "1", **s3.env).out
    assert "1 done" in job("status", uri, **s3.env).out
    again = job("train", uri, "--trial", "1", **s3.env)
    assert again.code == 0 and "already done" in again.out


def test_wrong_and_absent_keys_exit_77_and_a_server_that_is_down_75(shapes: Path, make_grid: Grid, s3: S3) -> None:
    grid = make_grid(lr=[0.02], epochs=[1])
    args = ("sweep", "--images", shapes, "--grid", grid, "s3://bucket/denied")
    wrong = job(*args, **{**s3.env, "AWS_SECRET_ACCESS_KEY": "wrong", "TRIALGRID_PATIENCE": "2"})
    assert wrong.code == 77 and "AWS_SECRET_ACCESS_KEY" in wrong.err and "Traceback" not in wrong.err
    absent = job(*args, AWS_ENDPOINT_URL=s3.env["AWS_ENDPOINT_URL"], AWS_REGION="us-east-1")
    assert absent.code == 77 and "no usable AWS credentials" in absent.err
    down = job(*args, **{**s3.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "TRIALGRID_PATIENCE": "2"})
    assert down.code == 75 and "AWS_ENDPOINT_URL" in down.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_the_right_to_write_exits_77(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.1], epochs=[1]), closed / "sweep")
    assert done.code == 77 and "Permission denied" in done.err


def test_trial_survives_an_outage_of_its_storage(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """The S3 server dies during training and comes back at the same place before the end."""
    folder = tmp_path / "server"
    folder.mkdir()
    server, endpoint = start_s3(folder)
    env = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    make_bucket(server, S3("bucket", env))
    grid = make_grid(lr=[0.02], epochs=[12], batch_size=[2])
    process = start_job("sweep", "--images", shapes, "--grid", grid, "s3://bucket/s", **env)
    wait_for_line(process, "epoch 1/12")
    server.send_signal(signal.SIGSTOP)
    wait_for_line(process, "epoch 4/12")
    server.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=150)
    server.kill()
    server.wait()
    assert process.returncode == 0, out
    assert "trial 1  done" in out
