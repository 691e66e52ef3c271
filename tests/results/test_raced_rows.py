"""Raced rows in sweeps that nobody trained: nothing is concluded from what the race did not finish."""

from dataclasses import replace
from typing import Any

import pytest

from job.cluster.status import sweep_status
from job.folder.groups import all_folds
from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.raced import race_cost
from job.results.summary import collect
from job.trial import Trial
from support import job, leave_predictions, leave_row, make_epochs


def leave(folder: LocalFolder, trial: Trial, num_wrong: int | None, num_epochs: int = 2, level: float = 0.3,
          **more: Any) -> None:
    """Write the row of a trial; one without mistakes is raced, and has no predictions."""
    if num_wrong is None:
        race = {"rung": 1, "place": 5, "num": 9, "p": 0.25, "goes_on": False}
        leave_row(folder, trial, make_epochs(num_epochs, level), **{
            "status": "raced", "cause": "stopped early by the race", "race": race, "num_val": 40, **more})
        return
    epochs = [replace(epoch, val_acc=1 - num_wrong / 40) for epoch in make_epochs(1, level)]
    leave_row(folder, trial, epochs, num_val=40, **more)
    leave_predictions(folder, trial.trial, range(num_wrong), 40, fold=f"fold{trial.fold}-" if trial.fold else "")


@pytest.fixture
def sweep(folder: LocalFolder) -> LocalFolder:
    return folder


def test_a_sweep_of_raced_and_failed_trials_alone_recommends_nothing_and_says_why(sweep: LocalFolder) -> None:
    leave(sweep, Trial(trial="1", epochs=9), None)
    leave(sweep, Trial(trial="2", epochs=9, lr=0.1), None, level=0.1)
    leave_row(sweep, Trial(trial="3", epochs=9, lr=1.0), [], status="failed", cause="out of memory")
    summary, _, _ = gather(sweep)
    assert summary.table["trial"].tolist() == ["2", "1", "3"] and summary.table["rank"].isna().all()
    assert summary.recommendation.sentences == ["No trial is recommended: none has finished with usable figures."]
    assert "No trial is ranked." in sweep.read("summary.html").decode()
    done = job("gather", sweep.path)
    assert done.code == 0 and "3 trials, 2 of them raced" in done.out and " raced " in done.out
    assert job("predict", sweep.path, "x.jpg").code == 66


def test_raced_trial_with_the_highest_figure_is_neither_ranked_nor_the_best_of_the_status(sweep: LocalFolder) -> None:
    leave(sweep, Trial(trial="high", epochs=9), None, level=0.01)
    leave(sweep, Trial(trial="low", epochs=9, lr=0.1), 4)
    sweep.write("pack/passport.json", b'{"pack_hash": "p"}')
    table = collect(sweep).lines
    assert table["trial"].tolist() == ["low", "high"] and table["verdict"].tolist() == ["best", ""]
    assert table["p_vs_baseline_holm"].notna().tolist() == [True, False]
    assert {item.trial.trial: item.state for item in sweep_status(sweep)} == {"high": "raced", "low": "done"}
    assert [item.trial.trial for item in sweep_status(sweep) if item.is_best] in (["low"], [])


def test_where_no_finished_trial_beats_the_baseline_the_raced_ones_are_said_to_be_untested(sweep: LocalFolder) -> None:
    leave(sweep, Trial(trial="1", epochs=9), 20)
    leave(sweep, Trial(trial="2", epochs=9, lr=0.1), None)
    sentences = collect(sweep).recommendation.sentences
    assert sentences[0] == "No trial beats always saying 'no'; use none of them."
    assert "Not tested, because the race stopped them early: 1 of the trials." in sentences


def test_damaged_record_of_the_race_has_no_p(sweep: LocalFolder) -> None:
    for number, p in enumerate((None, "0.5", 7.0, [1]), 1):
        leave(sweep, Trial(trial=str(number), epochs=9, lr=number), None, race={"rung": [number], "p": p})
    summary, _, _ = gather(sweep)
    assert summary.table["p_race"].isna().all()
    assert not any("p in the race" in note for note in summary.notes())
    assert any(note.startswith("the race stopped 4 of 4 trials early (epoch 2: trials 1, 2, 3, 4)")
               for note in summary.notes())


def test_setting_with_a_raced_fold_is_not_compared_and_the_fold_is_named(sweep: LocalFolder) -> None:
    whole, partly = (all_folds(Trial(trial=name, lr=lr, epochs=9, fold=1, folds=3)) for name, lr in (
        ("a", 0.1), ("b", 0.01)))
    for fold in whole:
        leave(sweep, fold, 4)
    for fold, num_wrong in zip(partly, (1, None, 1), strict=True):
        leave(sweep, fold, num_wrong)
    summary, _, _ = gather(sweep)
    assert summary.lines["trial"][summary.lines["rank"].notna()].tolist() == ["a-f1"]
    assert summary.recommendation.trial == "a-f1"
    notes = summary.notes()
    assert "not compared, because a fold is missing that the race stopped: the settings of trials b-f2" in notes
    assert not any("folds with usable figures" in note or "not ranked" in note for note in notes)
    assert any("job sweep --no-race" in note for note in notes)


def test_means_over_seeds_leave_out_a_setting_of_which_a_seed_was_raced(sweep: LocalFolder) -> None:
    for lr in (0.1, 0.01):
        for seed in range(3):
            is_raced = lr == 0.01 and seed == 2
            leave(sweep, Trial(trial=f"{lr:g}-{seed}".replace(".", ""), lr=lr, epochs=9, seed=seed),
                  None if is_raced else 3 + seed)
    found = collect(sweep).repeats
    assert found["trials"].tolist() == ["01-0, 01-1, 01-2"]


def test_raced_neighbours_are_no_evidence_for_a_next_grid(sweep: LocalFolder) -> None:
    leave(sweep, Trial(trial="1", lr=0.1, epochs=9), 2)
    leave(sweep, Trial(trial="2", lr=0.01, epochs=9), None)
    notes = collect(sweep).next_notes
    assert notes and notes[0].startswith("a guess: the best trial has the largest lr of the grid, 0.1, but no ranked "
                                         "trial differs from it in lr alone")


def test_raced_trajectory_counts_its_epochs_once(sweep: LocalFolder) -> None:
    leave(sweep, Trial(trial="short", epochs=9), None, num_epochs=3, trained_by="long")
    leave(sweep, Trial(trial="long", epochs=27), None, num_epochs=3)
    cost = race_cost(collect(sweep).table)
    assert cost and (cost.epochs_taken, cost.epochs_asked) == (3, 27)
    assert cost.seconds_saved == pytest.approx(2.5 * 24)


@pytest.mark.parametrize("num_raced", [0, 3])
def test_a_race_makes_no_winner_look_better_than_the_whole_grid_would(num_raced: int, sweep: LocalFolder) -> None:
    for name in ("1", "2"):
        leave(sweep, Trial(trial=name, epochs=9, lr=float(name)), 3 + int(name))
    for number in range(num_raced):
        leave(sweep, Trial(trial=f"raced{number}", epochs=9, lr=0.01 * (number + 1)), None)
    lines = collect(sweep).lines.set_index("trial")
    assert lines.loc["1", "p_vs_baseline_holm"] == pytest.approx((2 + num_raced) * lines.loc["1", "p_vs_baseline"])
