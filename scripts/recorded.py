"""A full grid as it was recorded, with the rungs of all trials: who wins if each trial trains only so many epochs.

Nothing is trained here. What is simulated is the race's rule, when a pod per trial looks after every epoch, and when
there are fewer validation images.
"""

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from schedulers import Curves, in_turns

from job.record import Epoch, Row
from job.training.exact import LEVEL, mcnemar
from job.training.race import Rung, bitmap, places

# How many epochs each trial has trained.
Trained = dict[str, int]


@dataclass(frozen=True)
class Recorded:
    """A full grid: each trial's epochs, row and rungs, and which validation images its best epoch has right.

    right: trial -> right_N, bool, in the order of the pack, as in the rungs.
    """

    epochs: dict[str, list[Epoch]]
    rows: dict[str, Row]
    rungs: dict[str, list[Rung]]
    right: dict[str, np.ndarray]

    @property
    def num_val(self) -> int:
        """The number of validation images."""
        return len(next(iter(self.right.values())))

    @property
    def seconds(self) -> Curves:
        """The seconds of each epoch with its validation."""
        return {trial: [(epoch.train_seconds or 0.0) + (epoch.val_seconds or 0.0) for epoch in epochs]
                for trial, epochs in self.epochs.items()}

    @property
    def accuracies(self) -> Curves:
        """The validation accuracy of each epoch."""
        return {trial: [epoch.val_acc for epoch in epochs] for trial, epochs in self.epochs.items()}


def in_step(rungs: dict[str, list[Rung]], epochs: dict[str, list[Epoch]]) -> Trained:
    """Return the epochs under the race's rule if all trials reach a rung before any is trained beyond it."""
    trained = {trial: len(found) for trial, found in epochs.items()}
    for number in (1, 2):
        heat = [rung for trial, found in rungs.items() for rung in found
                if rung.rung == number and trained[trial] >= rung.epoch]
        trained |= {place.trial: place.epoch for place in places(heat) if not place.goes_on}
    return trained


def with_pods(rungs: dict[str, list[Rung]], seconds: Curves, num_workers: int) -> Trained:
    """Return the epochs under the race's rule if each trial looks after every epoch at the rungs that there are."""
    passed: dict[tuple[str, int, int, int], list[Rung]] = {}

    def goes_on(trial: str, epoch: int) -> bool:
        reached = [rung for rung in rungs[trial] if rung.epoch <= epoch]
        for rung in reached:
            if rung.epoch == epoch:
                passed.setdefault(rung.heat, []).append(rung)
        return all(place.goes_on for rung in reached for place in places(passed[rung.heat]) if place.trial == trial)

    return in_turns(seconds, num_workers, goes_on)


def after_one_epoch(epochs: dict[str, list[Epoch]], early: int) -> Trained:
    """Return the epochs if the best third by the accuracy after one epoch goes on, and nothing else counts."""
    best = sorted((trial for trial in epochs if len(epochs[trial]) >= early), key=lambda trial: (
        -epochs[trial][early - 1].val_acc, epochs[trial][early - 1].val_loss))[:-(-len(epochs) // 3)]
    return {trial: len(found) if trial in best else min(early, len(found)) for trial, found in epochs.items()}


def figures(recorded: Recorded, trained: Trained) -> dict[str, Any]:
    """Return the shares of epochs and seconds, and what the winner lacks against that of the full grid."""
    best, found = winner(recorded.rows, recorded.rows), winner(recorded.rows, ended(recorded, trained))
    rows, (right, other) = (recorded.rows[best], recorded.rows[found]), (recorded.right[best], recorded.right[found])
    regrets = {split: round((getattr(rows[0], figure) or 0.0) - (getattr(rows[1], figure) or 0.0), 4)
               for split, figure in (("val", "best_val_acc"), ("test", "test_acc"))}
    p = mcnemar(int((right & ~other).sum()), int((other & ~right).sum()))
    return {"share_of_epochs": round(share_of_epochs(recorded, trained), 4),
            "share_of_seconds": round(sum(sum(each[:trained[trial]]) for trial, each in recorded.seconds.items())
                                      / sum(map(sum, recorded.seconds.values())), 4),
            "ended": len(ended(recorded, trained)), "best": best, "winner": found, "same": best == found,
            "p": round(p, 4), "distinguishable": p <= LEVEL, "best_val_acc": round(rows[0].best_val_acc or 0.0, 4),
            **{f"regret_{split}": regret for split, regret in regrets.items()}}


def ended(recorded: Recorded, trained: Trained) -> list[str]:
    """Return the trials that are trained to their end."""
    return [trial for trial, epochs in recorded.epochs.items() if trained[trial] >= len(epochs)]


def share_of_epochs(recorded: Recorded, trained: Trained) -> float:
    """Return the share of the full grid's epochs."""
    return sum(trained.values()) / sum(map(len, recorded.epochs.values()))


def winner(rows: dict[str, Row], of: Iterable[str]) -> str:
    """Return the best of some trials, by the order of the summary: accuracy, then loss."""
    def key(trial: str) -> tuple[float, float]:
        row = rows[trial]
        return -(row.best_val_acc or 0.0), row.best_val_loss if row.best_val_loss is not None else float("inf")

    return min(of, key=key)


def at_random(recorded: Recorded, num_epochs: int, draws: int, seed: int) -> dict[str, Any]:
    """Return the mean figures if trials are drawn and trained to their ends while so many epochs last.

    What a scheduler adds shows against this: the same epochs without looking at any curve.
    """
    draw, lines = random.Random(seed), []
    for _ in range(draws):
        trained, left = dict.fromkeys(recorded.epochs, 0), num_epochs
        for trial in draw.sample(sorted(recorded.epochs), len(recorded.epochs)):
            trained[trial] = len(recorded.epochs[trial]) if len(recorded.epochs[trial]) <= left else 0
            left -= trained[trial]
        lines.append(figures(recorded, trained))
    return {name: round(statistics.mean(line[name] for line in lines), 4)
            for name, value in lines[0].items() if not isinstance(value, str)}


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the seeds show together: counts, means and the worst."""
    found: dict[str, Any] = {"same": round(sum(line["same"] for line in lines), 2),
                             "not_distinguishable": round(sum(1 - line["distinguishable"] for line in lines), 2)}
    for name in ("share_of_epochs", "share_of_seconds", "regret_val", "regret_test"):
        values = [line[name] for line in lines]
        found |= {f"mean_{name}": round(statistics.mean(values), 4), f"most_{name}": max(values)}
    return found


def fewer_images(recorded: Recorded, num_val: int, draws: int, seed: int) -> dict[str, Any]:
    """Return what the choice among all trials, and the race besides, cost with so few of the validation images.

    `draws` times, so many images are drawn: they decide at the rungs and at the end. Accuracies are then those on the
    images that are not drawn. regret_of_choice: what the full grid's winner lacks against the trial that is best there;
    regret_of_race: what the race's winner lacks against the full grid's. Losses, which break ties, are those on all
    images, and so is which epoch is the best.
    """
    draw, num = np.random.default_rng(seed), recorded.num_val
    choices, races, shares, same, tested = [], [], [], [], []
    for _ in range(draws):
        drawn = draw.permutation(num) < num_val
        few = part_of(recorded, drawn)
        rest = {trial: float(right[~drawn].mean()) for trial, right in recorded.right.items()}
        trained = in_step(few.rungs, few.epochs)
        found = figures(few, trained)
        choices.append(max(rest.values()) - rest[found["best"]])
        races.append(rest[found["best"]] - rest[found["winner"]])
        shares.append(found["share_of_epochs"])
        same.append(found["same"])
        tested.append(not found["distinguishable"])
    mean = statistics.mean
    return {"num_val": num_val, "regret_of_choice": round(mean(choices), 4),
            "regret_of_race": round(mean(races), 4), "share_of_epochs": round(mean(shares), 4),
            "same": round(mean(same), 4), "not_distinguishable": round(mean(tested), 4)}


def part_of(recorded: Recorded, drawn_N: np.ndarray) -> Recorded:
    """Return the grid as it is with the validation images that `drawn_N`, bool, names."""
    def on_part(rung: Rung) -> Rung:
        if rung.hits is None:
            return rung
        hits = rung.hits[drawn_N]
        return replace(rung, val_acc=float(hits.mean()), num_val=len(hits), right=bitmap(list(hits)))

    right = {trial: found[drawn_N] for trial, found in recorded.right.items()}
    rows = {trial: replace(row, best_val_acc=float(right[trial].mean())) if row.best_epoch else row
            for trial, row in recorded.rows.items()}
    return Recorded(recorded.epochs, rows, {trial: [on_part(rung) for rung in found]
                                            for trial, found in recorded.rungs.items()}, right)
