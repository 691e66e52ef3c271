"""The time that a sweep may take: nothing begins that would overrun it, by the pace measured on this machine."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence

from job.data.pack import Passport
from job.errors import JobError
from job.folder.layout import read_row
from job.folder.storage import Folder
from job.training.continued import Predecessor, epochs_behind
from job.training.display import Display, plural
from job.training.options import SweepOptions
from job.training.race import rungs_of
from job.training.rungs import Paused
from job.trial import Trial

MOST_NAMED = 20


class Budget:
    """What is left of the time, and how long an epoch takes: measured over a few steps, then on the trials themselves.

    refused: the trials whose next part, to their next rung or their end, would take longer than what is left.
    """

    def __init__(self, sweep: Folder, passport: Passport, options: SweepOptions, display: Display,
                 continued: Mapping[str, Predecessor]) -> None:
        self.sweep, self.passport, self.options, self.display = sweep, passport, options, display
        self.continued = continued
        self.refused: set[str] = set()
        self.epoch_seconds: dict[Trial, float] = {}

    def allows(self, trials: Sequence[Trial]) -> bool:
        """Return whether the next part of a trial or trajectory fits into the time that is left; if not, refuse it."""
        if math.isinf(self.options.ends_at):
            return True
        longest = trials[-1]
        behind = epochs_behind(self.sweep, longest, self.continued.get(longest.trial))
        stops = [*(rungs_of(longest) if self.options.race in ("together", "alone") else []), longest.epochs]
        num_epochs = next((epoch for epoch in stops if epoch > behind), behind) - behind
        fits = time.time() < self.options.ends_at
        if fits:
            fits = time.time() + num_epochs * self.pace(longest) <= self.options.ends_at
        if not fits:
            self.refused.update(trial.trial for trial in trials)
        return fits

    def pace(self, trial: Trial) -> float:
        """Return the seconds of an epoch of such a trial; 0 where it cannot be trained: its row will say why."""
        from job.training.faults import named_faults
        from job.training.plan import kind_of, measure

        kind = kind_of(trial)
        if kind not in self.epoch_seconds:
            self.display.say(f"measuring the pace of trial {trial.trial}, for the budget")
            self.epoch_seconds[kind] = 0.0
            with contextlib.suppress(JobError), named_faults(kind):
                self.epoch_seconds[kind] = measure(self.sweep, kind, self.passport).epoch_seconds
        return self.epoch_seconds[kind]

    @contextlib.contextmanager
    def timed(self, trial: Trial) -> Iterator[None]:
        """Learn from a turn how long an epoch takes, with all that a turn does besides."""
        if math.isinf(self.options.ends_at):
            yield
            return
        began, behind = time.monotonic(), epochs_behind(self.sweep, trial, self.continued.get(trial.trial))
        try:
            yield
        except Paused:
            self.learn(trial, time.monotonic() - began, behind)
            raise
        self.learn(trial, time.monotonic() - began, behind)

    def learn(self, trial: Trial, seconds: float, behind: int) -> None:
        """Learn the pace of a trial from a turn of so many seconds, before which it had so many epochs behind it."""
        from job.training.plan import kind_of

        if (num_epochs := epochs_behind(self.sweep, trial) - behind) > 0:
            self.epoch_seconds[kind_of(trial)] = seconds / num_epochs


def say_untrained(sweep: Folder, trials: Sequence[Trial], display: Display, options: SweepOptions) -> None:
    """Say which of these trials a budget has left without a row, if it has."""
    left = [] if math.isinf(options.ends_at) else [trial for trial in trials if not read_row(sweep, trial.trial)]
    if not left:
        return
    behind = [epochs_behind(sweep, trial) for trial in left[:MOST_NAMED]]
    named = [f"{trial.trial} ({f'paused after epoch {epoch}' if epoch else 'not begun'})"
             for trial, epoch in zip(left, behind, strict=False)]
    more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
    display.say(f"the budget ends here; {plural(len(left), 'trial')} without a row: {', '.join(named)}{more}; "
                "the same command trains on")
