"""Figures of page and workbook: per class, mistakes, heat map, what was spent, ROC and precision-recall curves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from job.folder.local import LocalFolder
from job.results.figures import confusion_of, heat_map, mistakes, per_class, pr_points, roc_points, spent
from job.results.summary import collect
from job.training.evaluate import average_precision, figures_of, roc_auc
from job.trial import Trial
from support import leave_predictions, leave_row, make_epochs


def test_figures_per_class_are_those_of_the_row_with_exact_intervals() -> None:
    confusion = [[8, 1, 1], [2, 5, 0], [0, 0, 0]]
    found = per_class(confusion, ["a", "b", "c"]).set_index("label")
    means = figures_of(torch.tensor(confusion), "")
    assert {name: found[name].mean() for name in ("precision", "recall", "f1")} == pytest.approx(
        {name: means[name] for name in ("precision", "recall", "f1")})
    interval = binomtest(5, 7).proportion_ci(0.95, "exact")
    assert (found.loc["b", "recall_low"], found.loc["b", "recall_high"]) == pytest.approx((interval.low, interval.high))
    assert found["images"].tolist() == [10, 7, 0] and found.loc["c", ["recall_low", "recall_high"]].tolist() == [0, 1]


def test_mistakes_are_the_most_confident_first_and_agree_with_the_confusion_matrix(three_rows: LocalFolder) -> None:
    predictions = collect(three_rows).predictions["2"]
    found = mistakes(predictions)
    assert len(found) == 13 and (found["label"] != found["predicted"]).all()
    assert found["probability"].is_monotonic_decreasing and set(found["split"]) == {"val", "test"}
    (right_no, false_yes), (false_no, right_yes) = confusion_of(predictions, ["no", "yes"], "val")
    assert (right_no + right_yes, false_yes + false_no) == (290, 10) and right_no + false_yes == 150


def test_heat_map_is_there_where_two_settings_vary_and_means_over_seeds(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for number, (lr, size, seed, level) in enumerate(
            [(0.1, 8, 0, 0.3), (0.1, 16, 0, 0.6), (0.01, 8, 0, 0.2), (0.01, 8, 1, 0.4)]):
        leave_row(folder, Trial(trial=str(number), lr=lr, batch_size=size, seed=seed), make_epochs(1, level))
    found = heat_map(collect(folder).table, "best_val_acc")
    assert found is not None and (found.index.name, found.columns.name) == ("lr", "batch_size")
    assert found.index.tolist() == [0.01, 0.1] and found.columns.tolist() == [8, 16]
    assert found.loc[0.01, 8] == pytest.approx(1 - 0.3 / 1.5) and np.isnan(found.loc[0.01, 16])
    for number in range(5):
        leave_row(folder, Trial(trial=f"drawn-{number}", lr=0.2 + number, batch_size=32 + number), make_epochs(1, 0.1))
    assert heat_map(collect(folder).table, "best_val_acc") is None, "7 rows, 7 columns, 8 settings"
    leave_row(folder, Trial(trial="9", lr=0.1, batch_size=8, dropout=0.5), make_epochs(1, 0.1))
    assert heat_map(collect(folder).table, "best_val_acc") is None


def test_seconds_spent_count_a_trajectory_once_and_name_what_failures_lost(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    # An epoch takes 2.5 s. 8 passes through 4 and 2; the longer trial of 3 has no row yet.
    for name, epochs, by in (("8", 8, ""), ("4", 4, "8"), ("2", 2, "8"), ("3", 3, "gone"), ("5", 5, "gone")):
        leave_row(folder, Trial(trial=name, epochs=epochs), make_epochs(epochs, 0.5), trained_by=by)
    leave_row(folder, Trial(trial="f"), make_epochs(2, 0.5), status="failed", epochs_run=0, seconds=None)
    leave_row(folder, Trial(trial="d", lr=9.0), make_epochs(1, 0.5), status="diverged")
    assert spent(collect(folder)) == pytest.approx(
        {"trained": 2.5 * (8 + 5 + 2 + 1), "saved": 2.5 * (4 + 2 + 3), "failed": 5.0, "diverged": 2.5})
    # Two trials continue 8, each on its own; 10 is passed through.
    for name, epochs, by in (("12", 12, ""), ("10", 10, "12"), ("9", 9, "")):
        leave_row(folder, Trial(trial=name, epochs=epochs), make_epochs(epochs, 0.5), trained_by=by, continued_from="8")
    saved = 2.5 * (4 + 2 + 3 + 10 + 8 + 8)
    assert spent(collect(folder)) == pytest.approx(
        {"trained": 2.5 * (12 + 1 + 5 + 2 + 1), "saved": saved, "failed": 5.0, "diverged": 2.5})


@pytest.mark.parametrize("seed", range(4))
def test_areas_under_the_curves_are_those_of_the_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(200) < 0.3).tolist()
    scores = (rng.random(200) + 0.4 * np.array(labels)).round(1).tolist()
    roc, pr = roc_points(scores, labels), pr_points(scores, labels)
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(roc_auc(torch.tensor(scores), torch.tensor(labels)))
    gains = np.diff(pr["recall"], prepend=0.0)
    expected = average_precision(torch.tensor(scores), torch.tensor(labels))
    assert (gains * pr["precision"]).sum() == pytest.approx(expected)
    assert roc.iloc[-1].tolist()[:2] == [1, 1] and pr["recall"].iloc[-1] == 1


def test_curves_of_one_class_alone_have_no_points() -> None:
    assert roc_points([0.1, 0.2], [True, True]).empty and pr_points([0.1, 0.2], [False, False]).empty
    assert roc_points([], []).empty and pr_points([], []).empty


def test_probabilities_of_many_classes_are_not_kept_in_memory(tmp_path: Path) -> None:
    folder, classes = LocalFolder(str(tmp_path)), [f"c{number}" for number in range(12)]
    leave_row(folder, Trial(trial="1"), make_epochs(1, 0.5), classes=classes)
    header = ",".join(["split,image,label,predicted,correct", *(f"p_{name}" for name in classes)])
    shares = ",".join(["0.45", "0.05", *["0.05"] * 10])
    folder.write("trials/1/predictions.csv", f"{header}\nval,a.jpg,c1,c0,False,{shares}\n".encode())
    found = collect(folder).predictions["1"]
    assert found.columns.tolist() == ["split", "image", "label", "predicted", "correct", "probability"]
    assert mistakes(found)["probability"].tolist() == [0.45]
    leave_row(folder, Trial(trial="2"), make_epochs(1, 0.5))
    leave_predictions(folder, "1")
    assert [item.trial for item in collect(folder).damaged] == ["1"]
