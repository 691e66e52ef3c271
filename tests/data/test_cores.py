"""Cores: of the affinity, a container's limit or a pod's share; and threads that wait without spinning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.data import cores
from support import environment


def group(top: Path, path: str, **files: str) -> None:
    """Write the files of one control group."""
    folder = top / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(("quota", "expected"), [
    ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None), ("2 0", None)])
def test_limit_of_the_containers_own_group_counts_as_whole_cores(
        tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    group(tmp_path / "fs", "", cpu__max=quota)
    assert cores.cgroup_cores(tmp_path / "fs", tmp_path / "cgroup") == expected


def test_least_limit_of_the_groups_above_counts(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/pods/pod1/main\n")
    group(tmp_path / "fs", "pods", cpu__max="300000 100000")
    group(tmp_path / "fs", "pods/pod1", cpu__max="400000 100000")
    group(tmp_path / "fs", "pods/pod1/main", cpu__max="max 100000")
    assert cores.cgroup_cores(tmp_path / "fs", tmp_path / "cgroup") == 3


@pytest.mark.parametrize("path", ["/docker/0123abcd", "/"])
def test_version_1_limit_is_found_where_the_host_or_the_container_mounts_it(tmp_path: Path, path: str) -> None:
    # Docker on version 1 shows the host's path of the group and mounts the group itself at the top.
    (tmp_path / "cgroup").write_text(f"5:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n")
    group(tmp_path / "fs", "cpu,cpuacct", **{"cpu__cfs_quota_us": "250000", "cpu__cfs_period_us": "100000"})
    assert cores.cgroup_cores(tmp_path / "fs", tmp_path / "cgroup") == 2
    group(tmp_path / "fs", "cpu,cpuacct", **{"cpu__cfs_quota_us": "-1"})
    assert cores.cgroup_cores(tmp_path / "fs", tmp_path / "cgroup") is None


def test_where_there_are_no_control_groups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores.cgroup_cores(tmp_path, tmp_path / "cgroup") is None
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "cgroup_cores", lambda: None)
    assert cores.num_cores() == len(os.sched_getaffinity(0))


def test_a_limit_bounds_cores_and_threads_but_not_what_the_user_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cgroup_cores", lambda: 2)
    monkeypatch.setattr(cores, "num_visible_cores", lambda: 64)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is as before in the end
        monkeypatch.delenv(name)
    assert cores.num_cores() == 2
    cores.share_processor()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("2", "passive")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    cores.share_processor()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("1", "active")


def test_command_sets_passive_waiting_before_torch_is_imported() -> None:
    program = ("import sys; from job.cli import main; main.app = lambda: (print('torch' in sys.modules), "
               "__import__('torch'), print(__import__('os').environ['OMP_WAIT_POLICY'])); main.main()")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(),
                          check=True)
    assert done.stdout.split() == ["False", "passive"]
