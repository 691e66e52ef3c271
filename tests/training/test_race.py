"""The race's rule, as a table: which trials go on at a rung."""

from dataclasses import replace
from typing import Any

import pytest

from job.training.race import Place, Rung, bitmap, epochs_in_race, places, rungs_of
from job.trial import Trial


def rung(trial: str, digits: str, **values: Any) -> Rung:
    """A rung whose accuracy follows from `digits`: a 1 for each validation image that it has right."""
    hits = [digit == "1" for digit in digits]
    return Rung(**{"trial": trial, "rung": 1, "epoch": 3, "monitor": "val_acc", "mode": "auto", "fold": 0, "folds": 5,
                   "pack_hash": "p", "best_epoch": 2, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0,
                   "val_acc": sum(hits) / len(hits), "num_val": len(hits), "right": bitmap(hits), **values})


def right(num: int, of: int = 100) -> str:
    return "1" * num + "0" * (of - num)


def going_on(rungs: list[Rung]) -> list[str]:
    return [place.trial for place in places(rungs) if place.goes_on]


@pytest.mark.parametrize(("settings", "epochs"), [
    ({"epochs": 25}, [3, 9]), ({"epochs": 9}, [2, 3]), ({"epochs": 12}, [2, 4]), ({"epochs": 100}, [12, 34]),
    ({"epochs": 6}, [2]), ({"epochs": 3}, [2]), ({"epochs": 2}, []), ({"epochs": 1}, []),
    ({"epochs": 25, "warmup": 2.5}, [4, 9]), ({"epochs": 25, "warmup": 3}, [4, 9]),
    ({"epochs": 25, "warmup": 12}, [13]),
    ({"epochs": 5, "warmup": 4}, []), ({"epochs": 25, "schedule": "cosine"}, [3, 9])])
def test_rungs_are_at_a_ninth_and_a_third_after_the_warmup(settings: dict[str, Any], epochs: list[int]) -> None:
    assert rungs_of(Trial(**settings)) == epochs


@pytest.mark.parametrize(("num", "on"), [(1, 1), (3, 3), (4, 3), (9, 3), (10, 4), (24, 8), (200, 67)])
def test_a_third_and_never_fewer_than_three_go_on(num: int, on: int) -> None:
    # Each is far better than the next, as the test sees it.
    rungs = [rung(str(number), right(20 * (num - number), 20 * num)) for number in range(num)]
    assert going_on(rungs) == [str(number) for number in range(on)]


def test_trials_that_are_not_distinguishable_go_on_until_half_do() -> None:
    rungs = [rung(str(number), right(90 - number)) for number in range(24)]
    # From trial 8, which is the eighth, at least six differences would be needed: trials 8 to 12 have fewer.
    assert going_on(rungs) == [str(number) for number in range(12)]
    found = {place.trial: place for place in places(rungs)}
    assert found["12"].p == pytest.approx(0.0625) and not found["12"].goes_on  # Half go on, however alike it is.


def test_a_distinguishable_trial_is_passed_over_for_a_lower_one_that_is_not() -> None:
    best = [rung(name, right(90)) for name in ("a", "b", "c")]
    # Has 9 of the others' images wrong and 8 of its own right; d has only 10 wrong.
    e = rung("e", "0" * 9 + "1" * 81 + "1" * 8 + "00")
    d = rung("d", right(80))
    rest = [rung(name, right(40)) for name in ("f", "g", "h", "i")]
    assert going_on([*best, d, e, *rest]) == ["a", "b", "c", "e"]
    assert next(place for place in places([*best, d, e, *rest]) if place.trial == "d").p == pytest.approx(2 / 2**10)


def test_a_trial_without_finite_losses_is_out_even_of_three() -> None:
    lost = rung("lost", right(99), best_epoch=None, val_loss=None, val_acc=None)
    assert going_on([lost, rung("a", right(1))]) == ["a"]


def test_ties_go_by_loss_and_then_by_name() -> None:
    rungs = [rung("10", right(50)), rung("9", right(50)), rung("b", right(50), val_loss=0.5)]
    assert [place.trial for place in places(rungs)] == ["b", "9", "10"]


def test_a_common_validation_loss_ranks_and_mixed_monitors_rank_by_accuracy() -> None:
    low = rung("low", right(40), monitor="val_loss", val_loss=0.1)
    high = rung("high", right(60), monitor="val_loss", val_loss=0.2)
    assert [place.trial for place in places([low, high])] == ["low", "high"]
    assert [place.trial for place in places([low, replace(high, monitor="train_loss")])] == ["high", "low"]


def test_without_bitmaps_nothing_is_known_to_be_worse() -> None:
    rungs = [rung(str(number), right(90 - 9 * number), right="") for number in range(8)]
    assert going_on(rungs) == ["0", "1", "2", "3"]
    assert all(place.p is None for place in places(rungs))


@pytest.mark.parametrize("missing", range(1, 8))
def test_a_settled_trial_goes_on_whatever_the_others_bring(missing: int) -> None:
    rungs = [rung(str(number), right(90 - 5 * number)) for number in range(12)]
    better = [rung(f"x{number}", right(95)) for number in range(missing)]
    worse = [rung(f"x{number}", right(5)) for number in range(missing)]
    settled = [place.trial for place in places(rungs) if place.is_settled(missing)]
    for late in (better, worse, better[:1], better[:1] + worse[1:], []):
        assert set(settled) <= set(going_on([*rungs, *late]))
    assert bool(settled) == (missing < 6)


def test_the_record_names_the_rule_and_what_it_saw() -> None:
    rungs = [rung(str(number), right(90 - 9 * number)) for number in range(8)]
    last = places(rungs)[-1]
    record = last.as_record(rungs)
    assert record["seen"] == {str(number): 3 for number in range(8)}
    assert (record["place"], record["num"], record["num_best"], record["against"]) == (8, 8, 3, "2")
    assert record["p"] == last.p and last.p is not None and last.p < 1e-6
    assert "8 of 8 there, and the best 3 go on" in last.why_out()
    assert isinstance(last, Place)


def test_epochs_of_a_race_are_bounded_on_both_sides() -> None:
    trials = [Trial(epochs=27)] * 24
    few, many = epochs_in_race(trials, most=False), epochs_in_race(trials, most=True)
    # Of 24 trials 8 or 12 are left after epoch 3, and of these 3 or 6 after epoch 9.
    assert sorted(few) == [3] * 16 + [9] * 5 + [27] * 3 and sorted(many) == [3] * 12 + [9] * 6 + [27] * 6
    assert sum(few) / (24 * 27) < 0.27 and sum(many) / (24 * 27) < 0.4
    mixed = [Trial(epochs=9)] * 4 + [Trial(epochs=27)] * 4 + [Trial(epochs=2), Trial(epochs=27, fold=1)]
    assert epochs_in_race(mixed, most=False) == [9, 9, 9, 2, 3, 3, 3, 3, 2, 27]
    assert epochs_in_race(mixed, most=True) == [2] * 4 + [27, 27, 27, 9, 2, 27]
