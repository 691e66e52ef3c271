"""Epochs and rows: what goes in comes out, and a summary leaves out what is not finite."""

import json
import math
from dataclasses import asdict

import pytest

from job.record import Epoch, Row, epochs_from_csv, epochs_to_csv, row_of, row_to_json, summarise
from job.trial import Trial


def make_epochs() -> list[Epoch]:
    return [Epoch(epoch=n, train_loss=1 / (n + 2), train_acc=n / 7, val_loss=0.1 * n, val_acc=1 - n / 9, lr=0.1 / 3,
                  images_per_second=100.0 * n, train_seconds=1.5, val_seconds=0.25) for n in range(1, 6)]


def test_epochs_survive_csv_to_the_last_bit() -> None:
    assert epochs_from_csv(epochs_to_csv(make_epochs())) == make_epochs()


def test_epochs_csv_fault_names_its_line() -> None:
    with pytest.raises(ValueError, match="line 3"):
        epochs_from_csv("epoch,train_loss,train_acc,val_loss,val_acc\n1,1,1,1,1\n2,1,x,1,1\n")


def test_row_survives_json_and_is_flat() -> None:
    epochs = make_epochs()
    row = Row(settings=asdict(Trial(trial="1")), status="done", **summarise(epochs, epochs[2]))
    text = row_to_json(row)
    assert row_of(json.loads(text)) == row
    assert '"lr": 0.01' in text and '"settings"' not in text
    assert (row.median_train_loss, row.best_epoch, row.last_val_loss, row.seconds) == (1 / 5, 3, 0.5, 5 * 1.75)


def test_errors_that_older_rows_of_many_classes_call_false_negatives_have_their_own_name() -> None:
    old = {"trial": "1", "status": "done", "classes": ["a", "b", "c"], "test_false_negatives": 7,
           "last_test_false_negatives": 0}
    found = row_of(old)
    assert (found.test_errors, found.last_test_errors) == (7, 0)
    assert found.test_false_negatives is None and found.last_test_false_negatives is None
    assert row_of(json.loads(row_to_json(found))) == found
    two = row_of({**old, "classes": ["a", "b"]})
    assert (two.test_false_negatives, two.test_errors) == (7, None)


def test_summary_of_a_diverged_trial_leaves_out_what_is_not_finite() -> None:
    epochs = [*make_epochs()[:2], Epoch(epoch=3, train_loss=math.nan, train_acc=0.5, val_loss=math.inf, val_acc=0.5)]
    found = summarise(epochs, epochs[1])
    assert epochs[-1].diverged
    assert found["last_val_loss"] is None and found["last_train_loss"] is None
    assert found["median_val_loss"] == pytest.approx(0.15)
    row_to_json(Row(settings={"trial": "1"}, status="diverged", **found))


def test_median_of_an_even_number_of_epochs_is_the_mean_of_the_middle_two() -> None:
    assert summarise(make_epochs()[:4], None)["median_val_loss"] == pytest.approx(0.25)
