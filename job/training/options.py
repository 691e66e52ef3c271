"""How a command trains the trials of a sweep; the same for each of its workers."""

import math
from dataclasses import dataclass
from typing import Literal

from job.errors import BadConfig
from job.folder.layout import RACE
from job.folder.storage import Folder

# off: no race. together: the trials of a sweep, which pause at their rungs. alone: a trial that never waits, such as a
# pod's. to-the-end: the rungs are written, and no trial is stopped.
Mode = Literal["off", "together", "alone", "to-the-end"]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """independent: each trial separately, even if a longer one passes through it. race: see `Mode`.

    ends_at: seconds since the epoch (as of time.time) at which the budget is used up; infinity without one.
    """

    independent: bool = False
    race: Mode = "off"
    ends_at: float = math.inf


def will_race(sweep: Folder, wanted: bool | None) -> bool:
    """Return whether the trials of a sweep race: if a command says so, or the folder remembers it from an earlier one.

    wanted: None if the command does not say. Raises BadConfig if trials have begun without the wanted race.
    """
    # In this order: whoever races remembers it before the first trial begins.
    has_begun = bool(wanted) and next(iter(sweep.names("trials/")), None) is not None
    races = sweep.exists(RACE)
    if has_begun and not races:
        raise BadConfig(f"{sweep.uri}: its trials began without a race, so --race contradicts them; leave --race out, "
                        "or race in a new folder")
    return wanted is not False and (bool(wanted) or races)


def race_mode(sweep: Folder, wanted: bool | None, mode: Mode) -> Mode:
    """Return how a command trains, `mode` if the sweep races, and let the folder remember it; raises as `will_race`."""
    if will_race(sweep, wanted):
        sweep.write_once(RACE, b'{"race": true}\n')
        return mode
    return "to-the-end" if sweep.exists(RACE) else "off"
