"""The race: which trials go on at a rung. Pure: it knows nothing but what the trials left at their rungs.

The rungs and the shares are those of successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with a factor
of 3, as in ASHA (Li et al. 2020, arXiv 1810.05934). That a trial which a paired test does not find worse goes on, too,
is the idea of irace (Lopez-Ibanez et al. 2016). The first rung is early, because one or two epochs already rank most
settings (i-Epoch, arXiv 2404.04111), and yet never the first epoch.
"""

import base64
import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from job.training.exact import LEVEL, mcnemar
from job.trial import Trial, is_max

# A trial's rungs are at 1 / 9 and 1 / 3 of its epochs.
PARTS = (9, 3)
LEAST_EPOCHS = 2
# Of the trials at a rung one third goes on, and never fewer than 3; with those that are not distinguishable one half.
LEAST_ON, BEST_PART, MOST_PART = 3, 3, 2


def rungs_of(trial: Trial) -> list[int]:
    """Return the epochs after which a trial is compared: a ninth and a third of its own, after its warm-up.

    None is below 2; a trial of 2 epochs has none, one of 3 to 6 has one.
    """
    least = max(LEAST_EPOCHS, math.ceil(trial.warmup) + 1 if trial.warmup else 0)
    epochs = sorted({max(least, math.ceil(trial.epochs / part)) for part in PARTS})
    return [epoch for epoch in epochs if epoch < trial.epochs]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What a trial leaves after the epoch of its first (1) or second (2) rung, once: its best epoch so far.

    trial, monitor, mode, fold, folds: as in Trial. epoch: that of the rung. The figures are those of `best_epoch`; None
    where no epoch had finite losses. right: which of the `num_val` validation images it has right, in the order of
    the pack, as `bitmap` packs them; '' where that is not known.
    """

    trial: str
    rung: int
    epoch: int
    monitor: str
    mode: str
    fold: int
    folds: int
    pack_hash: str
    best_epoch: int | None
    train_loss: float | None
    train_acc: float | None
    val_loss: float | None
    val_acc: float | None
    num_val: int
    right: str = ""

    @property
    def heat(self) -> tuple[str, int, int, int]:
        """Trials are compared only within a heat: at the same rung, on the same pack and fold."""
        return self.pack_hash, self.fold, self.folds, self.rung

    @property
    def hits(self) -> np.ndarray | None:
        """Which validation images it has right, bool; None where that is not known."""
        if not self.right:
            return None
        bits = np.frombuffer(base64.b64decode(self.right), dtype=np.uint8)
        return np.unpackbits(bits, count=self.num_val).astype(bool)


def bitmap(right_N: Sequence[bool]) -> str:
    """Return so many bools as bits, the first one the highest of the first byte, in base64."""
    return base64.b64encode(np.packbits(np.asarray(right_N, dtype=bool)).tobytes()).decode()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a trial stands at a rung: its place of `num`, whether it goes on, and why.

    The best `num_best` go on in any case. p: of the paired test (McNemar's exact one, two-sided) against `against`, the
    last of these, on the same validation images; None for these themselves, and where it is not known.
    """

    trial: str
    rung: int
    epoch: int
    place: int
    num: int
    num_best: int
    goes_on: bool
    against: str = ""
    p: float | None = None

    def is_settled(self, num_missing: int) -> bool:
        """Whether it goes on, whatever figures so many more trials bring to this rung."""
        return self.goes_on and (not num_missing or self.place + num_missing <= num_best(self.num + num_missing))

    def why_out(self) -> str:
        """Why it does not go on, in words."""
        test = f"; p = {self.p:.2g} against trial {self.against}, the last of these" if self.p is not None else ""
        return (f"stopped early by the race, judged after epoch {self.epoch} (rung {self.rung}): {self.place} of "
                f"{self.num} there, and the best {self.num_best} go on{test}")

    def as_record(self, rungs: Sequence[Rung]) -> dict[str, Any]:
        """Return what the row keeps of the decision: the place, the rule's numbers, and which rungs of whom it saw."""
        rule = {"least": LEAST_ON, "best": f"1/{BEST_PART}", "most": f"1/{MOST_PART}", "level": LEVEL}
        return {**asdict(self), "rule": rule, "seen": {rung.trial: rung.epoch for rung in rungs}}


def num_best(num: int) -> int:
    """Return how many of the trials at a rung go on without a test."""
    return max(LEAST_ON, -(-num // BEST_PART))


def places(rungs: Sequence[Rung]) -> list[Place]:
    """Return where the trials of a heat stand, the best first, and which of them go on.

    Those are the best third, at least 3, and besides each trial that the paired test does not tell from the last of the
    best, the higher first, until half of all trials go on. A trial whose losses are not finite is out.
    """
    ordered = sorted(rungs, key=functools.partial(order_of, monitored=monitored(rungs)))
    best, num = num_best(len(ordered)), len(ordered)
    most = max(best, num // MOST_PART)
    found: list[Place] = []
    for place, rung in enumerate(ordered, 1):
        last = ordered[best - 1] if place > best else None
        p = p_equal(rung, last) if last else None
        goes_on = rung.best_epoch is not None and (
            last is None or (sum(other.goes_on for other in found) < most and (p is None or p > LEVEL)))
        found.append(Place(trial=rung.trial, rung=rung.rung, epoch=rung.epoch, place=place, num=num, num_best=best,
                           goes_on=goes_on, against=last.trial if last else "", p=p))
    return found


def monitored(rungs: Sequence[Rung]) -> tuple[str, str]:
    """Return the figure, and its mode, by which the sweep ranks: the validation figure that all monitor, or val_acc."""
    found = {(rung.monitor, rung.mode) for rung in rungs}
    monitor, mode = found.pop() if len(found) == 1 else ("val_acc", "auto")
    return (monitor, mode) if monitor.startswith("val_") else ("val_acc", "auto")


def order_of(rung: Rung, monitored: tuple[str, str]) -> tuple[float, float, tuple[int, str]]:
    """Return the sort key of a rung, the best first: the monitored figure, then the validation loss, then the name."""
    figure, loss = getattr(rung, monitored[0]), rung.val_loss
    name = (len(rung.trial), rung.trial)
    if rung.best_epoch is None or figure is None or loss is None:
        return math.inf, math.inf, name
    return -figure if is_max(*monitored) else figure, loss, name


def p_equal(rung: Rung, other: Rung) -> float | None:
    """Return the p-value that two trials are equally accurate on the validation images; None where it is not known."""
    first_N, second_N = rung.hits, other.hits
    if first_N is None or second_N is None or len(first_N) != len(second_N):
        return None
    return mcnemar(int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum()))


def epochs_in_race(trials: Sequence[Trial], most: bool) -> list[int]:
    """Return after how many epochs each trial ends where as few go on at each rung as can be, or with `most` as many.

    With few the trials of the fewest epochs go on, with many those of the most. It is a bound, if no training ends
    early by itself.
    """
    ends = [trial.epochs for trial in trials]
    for fold in {(trial.fold, trial.folds) for trial in trials}:
        alive = [index for index, trial in enumerate(trials) if (trial.fold, trial.folds) == fold]
        for number in range(len(PARTS)):
            there = [index for index in alive if len(rungs_of(trials[index])) > number]
            there.sort(key=lambda index: trials[index].epochs, reverse=most)
            num_on = max(num_best(len(there)), len(there) // MOST_PART if most else 0)
            for index in there[num_on:]:
                ends[index] = rungs_of(trials[index])[number]
                alive.remove(index)
    return ends
