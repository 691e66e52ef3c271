"""How a command trains the trials of a sweep; the same for each of its workers."""

import math
from dataclasses import dataclass

from job.training.rungs import Mode


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """independent: each trial separately, even if a longer one passes through it. race: see `job.training.rungs`.

    ends_at: seconds since the epoch (as of time.time) at which the budget is used up; infinity without one.
    """

    independent: bool = False
    race: Mode = "off"
    ends_at: float = math.inf
