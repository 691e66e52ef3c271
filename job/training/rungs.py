"""The rungs of a sweep folder, and the race as one process sees it: pure decisions over files that never change.

No process decides for another, and none waits for a process that died: who reads the same rungs decides the same.
"""

import base64
import binascii
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

from job.errors import BadConfig, MissingInput, TryAgain
from job.folder.layout import read_parsed, trial_file
from job.folder.lease import POLL_SECONDS
from job.folder.storage import Folder, join
from job.folder.untrusted import MOST_EPOCHS, bounded_json, check_types, in_range
from job.training.options import Mode
from job.training.race import Place, Rung, epochs_in_race, places, rungs_of
from job.trial import MODES, MONITORS, NAME_PATTERN, Trial

RUNG_FILE = re.compile(r"trials/([^/]+)/rungs/([0-9]{4,7})\.json", re.ASCII)
MOST_RUNG_BYTES = 4 << 20
# A look lists the folder; this is the largest share of the time that looks may take.
MOST_LOOK_SHARE = 0.02
THREADS = 16
@dataclass(frozen=True)
class Out:
    """What puts a trial out of the race: in words, and as its row records it (`Place.as_record`)."""

    cause: str
    record: dict[str, Any]


class Paused(TryAgain):
    """The trial waits at its rung until the others are there."""


def rung_file(trial: str, epoch: int) -> str:
    """Return the name of the file that a trial leaves at the rung of this epoch."""
    return trial_file(trial, f"rungs/{epoch:04d}.json")


def parse_rung(data: bytes, trial: str, epoch: int) -> Rung:
    """Return the rung in a file of this trial and epoch; raises ValueError, naming the key, for what cannot be one."""
    found = bounded_json(data, MOST_RUNG_BYTES)
    names = {spec.name for spec in fields(Rung)}
    if not isinstance(found, dict) or not names <= found.keys():
        raise ValueError("not what a trial leaves at a rung: a key is missing")
    check_types(Rung, found)
    rung = Rung(**{name: found[name] for name in names})
    if (rung.trial, rung.epoch) != (trial, epoch):
        raise ValueError("it is of another trial or epoch")
    if rung.monitor not in MONITORS or rung.mode not in MODES:
        raise ValueError("its monitor or mode is unknown")
    in_range("num_val", rung.num_val, 0, MOST_EPOCHS * 100)
    in_range("rung", rung.rung, 1, 2)
    try:
        num_bytes = len(base64.b64decode(rung.right, validate=True))
    except binascii.Error as error:
        raise ValueError(f"right is no base64 ({error})") from None
    if rung.right and num_bytes != -(-rung.num_val // 8):
        raise ValueError(f"right holds {num_bytes} bytes for {rung.num_val} images")
    return rung


@dataclass
class Seen:
    """The rungs of a sweep, read once each: (trial, epoch) -> rung; None for a file that cannot be read as one."""

    sweep: Folder
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.rungs: dict[tuple[str, int], Rung | None] = {}
        self.looked_at = self.look_seconds = 0.0

    def look(self, now: bool = False) -> None:
        """Read the rungs that are new; without `now`, only if that keeps looking within its share of the time."""
        began = time.monotonic()
        if not now and self.looked_at and self.look_seconds > MOST_LOOK_SHARE * (began - self.looked_at):
            return
        found = [(match[1], int(match[2])) for name in self.sweep.names("trials/")
                 if (match := RUNG_FILE.fullmatch(name)) and NAME_PATTERN.fullmatch(match[1])
                 and name == rung_file(match[1], int(match[2]))]
        new = [key for key in found if key not in self.rungs]
        if new:
            with ThreadPoolExecutor(THREADS) as pool:
                self.rungs.update(zip(new, pool.map(lambda key: self.read(*key), new), strict=True))
        self.looked_at = time.monotonic()
        self.look_seconds = self.looked_at - began

    def read(self, trial: str, epoch: int) -> Rung | None:
        """Return one rung; None, and say so, if it is damaged: it neither races nor keeps others waiting."""
        name = rung_file(trial, epoch)
        try:
            return read_parsed(self.sweep, name, lambda data: parse_rung(data, trial, epoch))
        except (ValueError, MissingInput) as error:
            self.say(f"{join(self.sweep.uri, name)}: {error}; trial {trial} is not compared at this rung")
            return None

    def add(self, rung: Rung) -> None:
        """Write a rung, once: where the file is there already, that one holds."""
        key = rung.trial, rung.epoch
        if key not in self.rungs:
            is_new = self.sweep.write_once(rung_file(*key), (json.dumps(asdict(rung)) + "\n").encode())
            self.rungs[key] = rung if is_new else self.read(*key)

    def heat_of(self, rung: Rung) -> list[Rung]:
        """Return the rungs that this one is compared with, itself included, in the order of names."""
        return sorted((other for other in self.rungs.values() if other and other.heat == rung.heat),
                      key=lambda other: other.trial)

    def place_of(self, rung: Rung) -> Place:
        """Return where a trial stands at this rung among those that have been there."""
        return next(place for place in places(self.heat_of(rung)) if place.trial == rung.trial)


class Race:
    """The race of a sweep as the process sees it that trains some of its trials.

    racers: the trials that the sweep trains; with mode together a rung is decided once each of these that `is_left` to
    train has left it or ended before.
    """

    def __init__(self, sweep: Folder, mode: Mode, say: Callable[[str], None], racers: Sequence[Trial] = (),
                 is_left: Callable[[Trial], bool] = lambda trial: False) -> None:
        self.seen, self.mode, self.racers, self.is_left = Seen(sweep, say), mode, racers, is_left
        self.ended: set[str] = set()
        self.left_at: dict[str, float] = {}

    def epochs_left(self, trials: Sequence[Trial]) -> int:
        """Return how many epochs these trials have left at most; of those since its last rung a trial has all."""
        if self.mode != "together":
            return sum(trial.epochs for trial in trials)
        behind = [max((rung.epoch for rung in self.left_by(trial)), default=0) for trial in trials]
        return sum(max(0, end - epoch) for end, epoch in zip(epochs_in_race(trials, most=True), behind, strict=True))

    def has_left(self, trial: str, epoch: int) -> bool:
        """Whether a trial's rung is in the folder, for all that this process knows."""
        return (trial, epoch) in self.seen.rungs

    def num_rungs(self, trial: Trial) -> int:
        """Return how many rungs the trial has behind it, as `is_waiting` last saw it; 0 without a race."""
        return max((rung.rung for rung in self.left_by(trial)), default=0)

    def left_by(self, trial: Trial) -> list[Rung]:
        """Return the rungs that a trial has left, up to one that is missing, without those that cannot be its own."""
        numbers = {(trial.trial, epoch): number for number, epoch in enumerate(rungs_of(trial), 1)}
        there = itertools.takewhile(self.seen.rungs.__contains__, numbers)
        return [rung for key in there if (rung := self.seen.rungs[key]) and rung.rung == numbers[key]]

    def leave(self, rung: Rung) -> None:
        """Write a rung, once."""
        self.seen.add(rung)

    def num_missing(self, rung: Rung) -> int:
        """Return how many trials are still to come to a rung."""
        if self.mode != "together":
            return 0
        reach = [trial for trial in self.racers if trial.trial not in self.ended and trial.fold == rung.fold
                 and len(epochs := rungs_of(trial)) >= rung.rung and trial.folds == rung.folds
                 and (trial.trial, epochs[rung.rung - 1]) not in self.seen.rungs]
        ended = {trial.trial for trial in reach if self.has_ended(trial)}
        if ended:
            # What these left before they ended, another process may have written since the last look.
            self.seen.look(now=True)
            self.ended |= ended
        return len(reach) - len(ended)

    def ask_again(self, trials: Sequence[Trial]) -> None:
        """Know no more whether these trials are left: they had a turn in this process."""
        for trial in trials:
            self.left_at.pop(trial.trial, None)

    def has_ended(self, trial: Trial) -> bool:
        """Whether a trial has nothing left to train; not known of one whose row is damaged or of other settings.

        That it is left is asked once in a while: each trial at a rung asks about all that are still to come.
        """
        if time.monotonic() - self.left_at.get(trial.trial, -math.inf) < POLL_SECONDS:
            return False
        try:
            if self.is_left(trial):
                self.left_at[trial.trial] = time.monotonic()
                return False
            return True
        except BadConfig:
            # No fault of the trial that asks: the command ends with it at its next turn, and nothing is decided before.
            return False

    def out(self, trial: Trial, epoch: int) -> Out | None:
        """Return what puts a trial out that has this many epochs behind it: the first rung that does.

        None if no rung does, or none that is decided.
        """
        if self.mode in ("off", "to-the-end"):
            return None
        self.seen.look()
        for rung in (rung for rung in self.left_by(trial) if rung.epoch <= epoch):
            if not self.num_missing(rung) and not (place := self.seen.place_of(rung)).goes_on:
                return Out(place.why_out(), place.as_record(self.seen.heat_of(rung)))
        return None

    def is_waiting(self, trial: Trial) -> bool:
        """Whether the trial stands at a rung that is not decided."""
        if self.mode != "together":
            return False
        self.seen.look()
        left = self.left_by(trial)
        num_missing = self.num_missing(left[-1]) if left else 0
        return num_missing > 0 and not self.seen.place_of(left[-1]).is_settled(num_missing)
