"""The claim comes before torch: whatever kills a process that imports it leaves an attempt, and in the end a row."""

import json
from pathlib import Path

from support import Grid, job, row


def test_process_that_dies_while_importing_torch_leaves_its_attempt_and_the_fourth_a_row(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """As where a pod has less memory than torch takes."""
    sweep, deadly = tmp_path / "s", tmp_path / "packages" / "torch"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02], epochs=[1])).code == 0
    deadly.mkdir(parents=True)
    (deadly / "__init__.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    for number in (1, 2, 3):
        assert job("train", sweep, "--trial", "1", PYTHONPATH=str(deadly.parent)).code == -9
        attempt = json.loads((sweep / "trials" / "1" / "attempts" / f"000{number}.json").read_text())
        assert attempt["state"] == "running" and attempt["epoch"] is None
        assert "interrupted" in job("status", sweep).out
    done = job("train", sweep, "--trial", "1", PYTHONPATH=str(deadly.parent))
    assert done.code == 70 and "3 attempts in a row died" in done.err
    found = row(sweep, 1)
    assert found["status"] == "failed" and "too little memory" in found["cause"] and found["versions"]["torch"]
    assert job("train", sweep, "--trial", "1").code == 0
    assert row(sweep, 1)["status"] == "done"
