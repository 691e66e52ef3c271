"""Jobs to run again, and a Job that paid for a GPU and sees none."""

import json
import re
from pathlib import Path

import pytest
import yaml

from support import S3, Grid, job

IMAGE = ("--image", "registry.example/trialgrid@sha256:" + "0" * 64)


def names_of(text: str) -> list[str]:
    return [item["metadata"]["labels"]["trialgrid/trial"] for item in yaml.safe_load_all(text) if item]


def test_rerun_prints_the_jobs_of_failed_or_missing_trials_under_new_names(cluster_sweep: str, s3: S3) -> None:
    failed, missing = (job("rerun", cluster_sweep, flag, *IMAGE, **s3.env) for flag in ("--failed", "--missing"))
    assert names_of(failed.out) == ["2"] and names_of(missing.out) == ["3", "5"]
    assert names_of(job("rerun", cluster_sweep, "--failed", "--missing", *IMAGE, **s3.env).out) == ["2", "3", "5"]
    first = {item["metadata"]["labels"]["trialgrid/trial"]: item["metadata"]["name"]
             for item in yaml.safe_load_all(job("manifests", cluster_sweep, *IMAGE, **s3.env).out)}
    again = {item["metadata"]["labels"]["trialgrid/trial"]: item["metadata"]["name"]
             for text in (failed.out, missing.out) for item in yaml.safe_load_all(text)}
    for trial, name in again.items():
        assert re.fullmatch(re.escape(first[trial]) + r"-r\d{10}", name)
    assert job("rerun", cluster_sweep, *IMAGE, **s3.env).code == 2
    assert job("rerun", cluster_sweep, "--failed", **s3.env).code == 78


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_job_that_paid_for_a_gpu_and_sees_none_fails_with_a_row(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02], epochs=[1])).code == 0
    done = job("train", sweep, "--trial", "1", TRIALGRID_DEVICE="cuda")
    assert done.code == 78 and "no GPU is visible" in done.err
    row = json.loads((sweep / "trials" / "1" / "row.json").read_text())
    assert row["status"] == "failed" and "TRIALGRID_DEVICE" in row["cause"]
