"""A command that forks from the warm process of the tests is the command that Python starts anew."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job.process import is_gone, process_id
from support import ROOT, WARM, cold_job, environment, job
from warm import HERE

BEGUN = (f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(ROOT)!r}]\n"
         "from support import job, WARM; job('--version'); print(WARM.pid, flush=True); sys.stdin.read()")


@pytest.mark.parametrize("args", [
    ("--help",), ("--version",), ("grid", "--lr", "0.1"), ("grid", "--lr", "nan"), ("no-such-command",),
    ("status", "/no/such/folder"), ("predict", "{tmp}", "x.jpg"), ("status", os.fsdecode(b"/caf\xe9"))])
def test_it_prints_the_same_and_exits_alike(args: tuple[str, ...], tmp_path: Path) -> None:
    assert WARM.suits(environment(), ROOT)
    words = [word.format(tmp=tmp_path) for word in args]
    assert job(*words) == cold_job(*words)


def test_variable_that_a_library_reads_when_it_is_imported_is_for_a_command_that_starts_anew() -> None:
    assert WARM.suits(environment(AWS_REGION="x", TRIALGRID_QUIET="1"), ROOT)
    for name in ("OMP_NUM_THREADS", "PYTHONPATH", "TORCH_HOME", "CUDA_VISIBLE_DEVICES", "PATH"):
        assert not WARM.suits(environment(**{name: "7"}), ROOT)


def test_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text("trial,lr,epochs\n1,0.1,2\n")
    assert WARM.suits(environment(), ROOT)
    with pytest.raises(subprocess.TimeoutExpired):
        WARM.run(["status", str(tmp_path), "--watch"], environment(), 2)
    # The warm process kills it as soon as the line closes, and reaps it.
    deadline = time.monotonic() + 20
    while found := Path(f"/proc/{WARM.pid}/task/{WARM.pid}/children").read_text():
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def test_warm_process_ends_with_the_tests_even_if_these_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", BEGUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=environment()) as tests:
        assert tests.stdout
        warm = int(tests.stdout.readline())
        assert "warm.py" in Path(f"/proc/{warm}/cmdline").read_text()
        identity = process_id(warm)
        tests.kill()
        deadline = time.monotonic() + 20
        while not is_gone(identity) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert is_gone(identity)
