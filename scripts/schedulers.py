"""How many epochs each trial trains under other schedulers, on curves that were recorded: nothing is trained here.

scripts/bench_race.py imports the clock, and runs the file in a Python that has Optuna and Ray Tune: it reads a line of
JSON and prints one. The schedulers are those of the libraries, and decide by an epoch's own validation accuracy.
"""

import heapq
import json
import os
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

FACTOR = 3
# Trial -> the seconds of each of its epochs, or their validation accuracies, in the order in which trials are begun.
Curves = dict[str, list[float]]


def in_turns(seconds: Curves, num_workers: int, goes_on: Callable[[str, int], bool]) -> dict[str, int]:
    """Return how many epochs each trial trains, if so many workers take the trials in this order, each to its end.

    goes_on: asked with trial and epoch each time that an epoch ends, in the order of these ends.
    """
    waiting, running, trained = list(reversed(seconds)), list[tuple[float, int, str]](), dict[str, int]()
    now, begun = 0.0, 0
    while waiting or running:
        while waiting and len(running) < num_workers:
            trial, begun = waiting.pop(), begun + 1
            heapq.heappush(running, (now + seconds[trial][0], begun, trial))
        now, place, trial = heapq.heappop(running)
        trained[trial] = trained.get(trial, 0) + 1
        if goes_on(trial, trained[trial]) and trained[trial] < len(seconds[trial]):
            heapq.heappush(running, (now + seconds[trial][trained[trial]], place, trial))
    return trained


def optuna(accuracies: Curves, seconds: Curves, first: int, num_workers: int) -> dict[str, int]:
    """Return the epochs under Optuna's SuccessiveHalvingPruner."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=FACTOR)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    begun: dict[str, Any] = {}

    def goes_on(trial: str, epoch: int) -> bool:
        asked = begun[trial] = begun[trial] if trial in begun else study.ask()
        value = accuracies[trial][epoch - 1]
        asked.report(value, epoch)
        pruned = asked.should_prune()
        if pruned or epoch == len(accuracies[trial]):
            study.tell(asked, None if pruned else value,
                       state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE)
        return not pruned

    return in_turns(seconds, num_workers, goes_on)


def asha(accuracies: Curves, seconds: Curves, first: int, num_workers: int) -> dict[str, int]:
    """Return the epochs under Ray Tune's ASHAScheduler, which needs no cluster for it."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(metric="val_acc", mode="max", grace_period=first, reduction_factor=FACTOR,
                              max_t=max(map(len, accuracies.values())))
    begun: dict[str, Any] = {}

    def goes_on(trial: str, epoch: int) -> bool:
        if trial not in begun:
            begun[trial] = SimpleNamespace(trial_id=trial)
            scheduler.on_trial_add(None, begun[trial])
        result = {"training_iteration": epoch, "val_acc": accuracies[trial][epoch - 1]}
        return bool(scheduler.on_trial_result(None, begun[trial], result) == ASHAScheduler.CONTINUE)

    return in_turns(seconds, num_workers, goes_on)


def main(names: Sequence[str]) -> None:
    """Print the epochs of each trial under the named schedulers, for the curves on standard input."""
    # Ray would tell its makers that it was imported.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    given = json.load(sys.stdin)
    print(json.dumps({name: {"optuna": optuna, "asha": asha}[name](**given) for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
