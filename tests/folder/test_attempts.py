"""Attempts: which deaths count, and files that are not attempts or are damaged."""

import time

import pytest

from job.folder import attempts
from job.folder.attempts import Attempt, as_json, attempt_file
from job.folder.lease import Busy, DiedTooOften, held
from job.folder.storage import Folder
from leases import last, take


def leave_behind(folder: Folder, number: int, **what: object) -> None:
    """The file of an attempt of another host, silent for long."""
    gone = {"at": "2026-01-01T00:00:00+00:00", "host": "node-9/pod", "process": "other-boot ns 1 1", **what}
    folder.write(attempt_file("trials/1", number), as_json(Attempt(**gone)))  # type: ignore[arg-type]


SAME: dict[str, object] = {"from_epoch": 2, "epoch": 2}
DEAD = [{**SAME, "step": 5}, SAME, SAME]


@pytest.mark.parametrize(("deaths", "enough"), [
    (DEAD, True), (DEAD[:2], False), ([{}, {}, {}], True),
    # Each got somewhere: the next began later.
    ([{"from_epoch": 0, "epoch": 0}, {"from_epoch": 3, "epoch": 3}, {"from_epoch": 8, "epoch": 8}], False),
    # The last got somewhere.
    ([*DEAD[:2], {"from_epoch": 2, "epoch": 3}], False),
    # Each says that it finished an epoch, which never reached the storage.
    ([{"from_epoch": 2, "epoch": 3}] * 4, True), ([{"from_epoch": 2, "epoch": 3}] * 3, False),
    # Died while loading, between others.
    ([DEAD[0], {}, DEAD[0]], True),
    # An orderly end breaks the row.
    ([*DEAD[:2], {"state": "stopped"}, DEAD[0]], False)])
def test_deaths_that_count_are_those_after_which_the_next_began_where_they_had(
        folder: Folder, deaths: list[dict[str, object]], enough: bool) -> None:
    for number, what in enumerate(deaths, 1):
        leave_behind(folder, number, **what)
    lease = take(folder)
    if enough:
        with pytest.raises(DiedTooOften, match=r"3 attempts in a row .* node-9"), held(lease):
            lease.check_deaths()
        assert last(folder).state == "failed"
        # Counted once: the next try is a new one.
        lease = take(folder)
    lease.check_deaths()
    lease.end("done")


def test_stray_files_are_no_attempts_and_a_damaged_one_is_waited_for(folder: Folder, quick: None) -> None:
    for name in ("7.json", "0007", "٠٠٠٩.json", "0003.json.bak"):
        folder.write(f"trials/1/attempts/{name}", b"{}")
    take(folder).end("done")
    assert attempts.num_attempts(folder, "trials/1") == 1
    folder.write(attempt_file("trials/1", 2), b"{")
    with pytest.raises(Busy):
        take(folder, wait=False)
    began = time.monotonic()
    assert take(folder).number == 3 and time.monotonic() - began > 3
