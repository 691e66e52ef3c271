"""What scripts/bench race simulates, on curves of a few trials: who trains how long, and who wins."""

import json
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from recorded import Recorded, after_one_epoch, at_random, fewer_images, figures, in_step, with_pods
from schedulers import in_turns

from job.record import Epoch, Row
from job.training.race import Rung, bitmap
from support import ROOT

NINE = [*"abcdefghi"]


def curve(*accuracies: float, seconds: float = 1.0) -> list[Epoch]:
    """Epochs of these validation accuracies, with losses that fall as they rise."""
    return [Epoch(epoch=number, train_loss=1 - acc, train_acc=acc, val_loss=1 - acc, val_acc=acc,
                  train_seconds=seconds * 0.75, val_seconds=seconds * 0.25) for number, acc in enumerate(accuracies, 1)]


def recorded(curves: dict[str, list[Epoch]], num_val: int = 100) -> Recorded:
    """A full grid of these curves with rungs after epochs 2 and 3; what is right is right from the first image on."""
    rows, rungs, right = {}, {}, {}
    for trial, epochs in curves.items():
        *firsts, best = (max(epochs[:last], key=lambda epoch: epoch.val_acc) for last in (2, 3, len(epochs)))
        rungs[trial] = [Rung(trial=trial, rung=number, epoch=number + 1, monitor="val_acc", mode="auto", fold=0,
                             folds=5, pack_hash="p", best_epoch=so_far.epoch, train_loss=so_far.train_loss,
                             train_acc=so_far.train_acc, val_loss=so_far.val_loss, val_acc=so_far.val_acc,
                             num_val=num_val, right=bitmap(hits(so_far, num_val)))
                        for number, so_far in enumerate(firsts, 1)]
        right[trial] = np.array(hits(best, num_val))
        rows[trial] = Row(settings={}, status="done", pack_hash="p", classes=["no", "yes"], best_epoch=best.epoch,
                          test_acc=best.val_acc / 2, best_val_acc=best.val_acc, best_val_loss=best.val_loss)
    return Recorded(curves, rows, rungs, right)


def hits(epoch: Epoch, num_val: int) -> list[bool]:
    return [image < round(epoch.val_acc * num_val) for image in range(num_val)]


def test_workers_take_trials_in_order_and_ask_at_the_end_of_each_epoch() -> None:
    asked = []

    def goes_on(trial: str, epoch: int) -> bool:
        asked.append((trial, epoch))
        return trial != "slow" or epoch < 2

    # Two workers; `third` begins when `quick` has ended, after 3 s.
    trained = in_turns({"slow": [2.5] * 4, "quick": [1.0] * 3, "third": [1.0] * 3}, 2, goes_on)
    assert trained == {"slow": 2, "quick": 3, "third": 3}
    assert asked == [("quick", 1), ("quick", 2), ("slow", 1), ("quick", 3), ("third", 1), ("slow", 2), ("third", 2),
                     ("third", 3)]


def test_after_one_epoch_the_best_third_goes_on_and_one_that_rises_later_is_lost() -> None:
    curves = {"early": curve(0.1, 0.2, 0.7, 0.7), "late": curve(0.1, 0.2, 0.3, 0.9), "low": curve(0.1, 0.1, 0.4, 0.4)}
    trained = after_one_epoch(curves, 3)
    assert trained == {"early": 4, "late": 3, "low": 3}
    found = figures(recorded(curves), trained)
    assert (found["best"], found["winner"], found["same"], found["ended"]) == ("late", "early", False, 1)
    assert found["share_of_epochs"] == found["share_of_seconds"] == round(10 / 12, 4)
    assert found["regret_val"] == 0.2 and found["regret_test"] == 0.1 and found["distinguishable"]
    # 20 images are right by `late` alone.
    assert found["p"] == round(2 / 2**20, 4)


def test_trials_at_random_are_trained_to_their_ends_while_the_epochs_last() -> None:
    grid = recorded({trial: curve(*[0.9 - 0.1 * place] * 6) for place, trial in enumerate(NINE)})
    found = at_random(grid, 20, 400, 0)
    # Three of nine trials of 6 epochs: a third of the draws has the best one.
    assert found["ended"] == 3 and found["share_of_epochs"] == found["share_of_seconds"] == 0.3333
    assert found["same"] == pytest.approx(1 / 3, abs=0.08) and found["regret_val"] > 0.1


def test_winners_that_differ_in_few_images_are_not_distinguishable() -> None:
    curves = {"a": curve(0.5, 0.5, 0.5, 0.55), "b": curve(0.5, 0.5, 0.5, 0.5)}
    found = figures(recorded(curves), {"a": 3, "b": 4})
    assert found["winner"] == "b" and not found["distinguishable"] and found["p"] == round(2 / 2**5, 4)


def test_pods_that_start_together_stop_who_is_far_behind_at_the_first_rung() -> None:
    curves = {trial: curve(*[0.9 - 0.1 * place] * 6) for place, trial in enumerate(NINE)}
    seconds = {trial: [1.0 + 0.001 * place] * 6 for place, trial in enumerate(NINE)}
    trained = with_pods(recorded(curves).rungs, seconds, len(NINE))
    # The fourth and the others arrive after the best three, and are told from the third by ten images.
    assert trained == {trial: 6 if trial in "abc" else 2 for trial in NINE}


def test_one_pod_after_another_stops_the_worse_only_when_better_ones_have_passed() -> None:
    curves = {trial: curve(*[0.1 + 0.1 * place] * 6) for place, trial in enumerate(NINE)}
    trained = with_pods(recorded(curves).rungs, {trial: [1.0] * 6 for trial in NINE}, 1)
    # The best come last: nobody is better when a trial is at its rung, so nobody is stopped.
    assert set(trained.values()) == {6}
    # With all at once each looks again after every epoch, when all rungs are there.
    slow = {trial: [1.0 - 0.001 * place] * 6 for place, trial in enumerate(NINE)}
    assert with_pods(recorded(curves).rungs, dict(reversed(slow.items())), len(NINE)) == {
        trial: 6 if trial in "ghi" else 2 for trial in NINE}


def test_race_in_step_is_the_rule_rung_by_rung() -> None:
    curves = {trial: curve(*[0.9 - 0.1 * place] * 6) for place, trial in enumerate(NINE)}
    grid = recorded(curves | {"late": curve(0.65, 0.65, 0.1, 1)})
    trained = in_step(grid.rungs, grid.epochs)
    # Of ten trials four go on, and d besides, which differs from the fourth in five images; then three of these five.
    assert {trial: epochs for trial, epochs in trained.items() if epochs > 2} == {
        "a": 6, "b": 6, "c": 6, "d": 3, "late": 3}
    assert figures(grid, trained)["best"] == "late" and figures(grid, trained)["winner"] == "a"


def test_fewer_images_cost_the_choice_more_and_the_race_little() -> None:
    draw = np.random.default_rng(0)
    curves = {trial: curve(*[0.6 + 0.02 * place] * 6) for place, trial in enumerate(NINE)}
    grid = recorded(curves, num_val=2000)
    # Which images each has right is drawn, so that trials differ by chance, too.
    right = {trial: draw.random(2000) < 0.6 + 0.02 * place for place, trial in enumerate(NINE)}
    rungs = {trial: [replace(rung, right=bitmap(list(right[trial]))) for rung in found]
             for trial, found in grid.rungs.items()}
    grid = replace(grid, right=right, rungs=rungs)
    few, many = (fewer_images(grid, num, 20, 0) for num in (20, 1000))
    assert few["regret_of_choice"] > many["regret_of_choice"] + 0.01
    # All epochs of a trial are alike here, so the race has what the choice has.
    assert few["regret_of_race"] == many["regret_of_race"] == 0 and few["same"] == many["same"] == 1


@pytest.mark.parametrize("name", ["optuna", "asha"])
def test_libraries_stop_a_trial_at_the_first_rung_that_is_worse_than_those_before(name: str) -> None:
    python = ROOT / ".venv-schedulers" / "bin" / "python"
    if not python.exists():
        pytest.skip("Optuna and Ray Tune are not installed (scripts/bench race installs them)")
    given: dict[str, Any] = {"accuracies": {"a": [0.5] * 6, "b": [0.4] * 6, "c": [0.6] * 6},
                             "seconds": {trial: [1.0] * 6 for trial in "abc"}, "first": 2, "num_workers": 1}
    done = subprocess.run([python, ROOT / "scripts" / "schedulers.py", name], input=json.dumps(given), text=True,
                          capture_output=True, check=True)
    assert json.loads(done.stdout)[name] == {"a": 6, "b": 2, "c": 6}
