"""What tells one process from another."""

import subprocess

from job.process import is_gone, process_id


def test_process_that_is_gone_is_known_by_more_than_its_number() -> None:
    assert not is_gone(process_id())
    boot, namespace, pid, start = process_id().split()
    assert is_gone(f"{boot} {namespace} {pid} {int(start) - 1}")
    with subprocess.Popen(["sleep", "60"]) as child:
        name = process_id(child.pid)
        assert not is_gone(name)
        child.kill()
    assert is_gone(name)
    # The first process of another container, or of another machine: who knows.
    assert not is_gone(f"{boot} pid:[1] 1 1") and not is_gone(f"elsewhere {namespace} {pid} 1") and not is_gone("")
