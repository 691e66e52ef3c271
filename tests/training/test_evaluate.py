"""The figures of validation and test: thresholds, areas under curves, confusion matrices."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from job.data.pack import Passport
from job.folder.storage import Folder
from job.training.evaluate import (
    Evaluation,
    average_precision,
    choose_threshold,
    confusion_matrix,
    evaluate,
    figures_at_threshold,
    figures_on_test,
    logits_of,
    roc_auc,
)
from job.trial import Trial
from loops import begin


def evaluation(scores: list[float], positive: list[int]) -> Evaluation:
    p = torch.tensor(scores, dtype=torch.float64)
    return Evaluation(0.0, 0.0, torch.stack([(1 - p).log(), p.log()], 1), torch.tensor(positive))


def test_threshold_gives_the_wanted_recall_on_validation_and_lies_between_images() -> None:
    val = evaluation([0.9, 0.8, 0.6, 0.4, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 1, 1, 0, 0, 0])
    test = evaluation([0.5, 0.35, 0.2, 0.39, 0.6, 0.1], [1, 1, 1, 0, 0, 0])
    for recall, below, above in ((0.2, 0.8, 0.9), (0.21, 0.7, 0.8), (0.8, 0.3, 0.4), (0.81, 0.2, 0.3), (1.0, 0.2, 0.3)):
        found = figures_at_threshold(val, test, recall)
        assert below < found["threshold"] < above and found["val_recall_at_threshold"] >= recall - 1e-9
        assert torch.tensor(found["threshold_margin"]).sigmoid() == pytest.approx(found["threshold"])
    assert found["test_confusion_at_threshold"] == [[1, 2], [1, 2]] and found["test_false_negatives_at_threshold"] == 1


def test_threshold_is_the_best_of_all_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = torch.from_numpy(rng.integers(0, 12, 40) / 12)
        positive = torch.from_numpy(rng.random(40) < 0.4)
        recall = float(rng.choice([0.5, 0.8, 0.95, 1.0]))
        good = max(t for t in scores.tolist() if (scores[positive] >= t).double().mean() >= recall - 1e-9)
        found = choose_threshold(scores, positive, recall)
        assert torch.equal(scores >= found, scores >= good) and (scores - found).abs().min() > 1e-3


def test_roc_auc_is_mann_whitney_and_average_precision_its_definition_with_ties() -> None:
    rng = np.random.default_rng(0)
    for size, levels in itertools.product((5, 30, 200), (3, 1000)):
        scores = rng.integers(0, levels, size) / levels
        positive = rng.random(size) < 0.4
        positive[:2] = True, False
        statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
        found = roc_auc(torch.from_numpy(scores), torch.from_numpy(positive))
        assert found == pytest.approx(statistic / positive.sum() / (~positive).sum())
        total, recall_before = 0.0, 0.0
        for threshold in sorted(set(scores), reverse=True):
            chosen = scores >= threshold
            recall = (chosen & positive).sum() / positive.sum()
            total += (recall - recall_before) * (chosen & positive).sum() / chosen.sum()
            recall_before = recall
        assert average_precision(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(total)
    assert roc_auc(torch.tensor([0.5]), torch.tensor([True])) is None


def test_figures_are_those_of_the_positive_class_for_two_classes() -> None:
    logits = torch.tensor([[2.0, 1], [1, 2], [1, 2], [2, 1], [1, 2], [2, 1]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    figures = figures_on_test(Evaluation(0.5, 0.5, logits, labels), 2)
    assert figures["test_confusion"] == [[1, 1], [2, 2]]
    assert (figures["test_precision"], figures["test_recall"], figures["test_false_negatives"]) == (2 / 3, 0.5, 2)
    assert figures["test_f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_figures_of_more_classes_are_means_and_a_class_never_predicted_counts_as_zero() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 0]), 3).float()
    figures = figures_on_test(Evaluation(0.5, 0.5, logits, torch.tensor([0, 0, 1, 2])), 3)
    assert figures["test_precision"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert figures["test_recall"] == pytest.approx(2 / 3) and figures["test_errors"] == 1
    assert "test_false_negatives" not in figures
    matrix = confusion_matrix(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 2]), 3)
    assert matrix.tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_validation_images_are_the_plain_center_crops(packed: tuple[Folder, Passport]) -> None:
    machine, batches, state = begin(packed)
    once, again = (evaluate(state.model, batches, "val", machine) for _ in range(2))
    assert once.loss == again.loss and torch.equal(once.logits_NK, again.logits_NK)
    cross_entropy = torch.nn.functional.cross_entropy(once.logits_NK.double(), once.labels_N).item()
    assert once.loss == pytest.approx(cross_entropy)


def test_batch_that_does_not_fit_on_the_gpu_is_halved_until_it_does(
        packed: tuple[Folder, Passport], monkeypatch: pytest.MonkeyPatch) -> None:
    machine, batches, state = begin(packed, Trial(trial="1", image_size=40, model="mlp", weights="none", batch_size=8))
    images = torch.cat([batches.indices["train"], batches.indices["val"]])
    monkeypatch.setattr("job.training.evaluate.fitting", fitting := dict[int, int]())
    expected = logits_of(state.model.eval(), batches, images, machine)
    sizes = list[int]()

    def of_five_at_most(images_NCHW: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images_NCHW))
        if len(images_NCHW) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: torch.Tensor = state.model(images_NCHW)
        return logits

    with torch.inference_mode():
        for _ in range(2):
            found = logits_of(of_five_at_most, batches, images, machine)
            torch.testing.assert_close(found, expected)
    # 128, 64, 32, 16 and 8 at once do not fit; the second evaluation knows that.
    assert [size for size in sizes if size > 5] == [len(images), len(images), 32, 16, 8] and fitting == {40: 4}
    with pytest.raises(torch.OutOfMemoryError):
        logits_of(lambda images_NCHW: of_five_at_most(images_NCHW.repeat(6, 1, 1, 1)), batches, images, machine)
