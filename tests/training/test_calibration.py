"""Temperature, Brier score and calibration error against scipy's optimiser and figures computed by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from job.training.bins import num_bins
from job.training.calibration import (
    HIGHEST,
    LOWEST,
    brier_score,
    calibration_error,
    calibration_figures,
    fit_temperature,
)
from job.training.evaluate import Evaluation


def drawn(num: int, num_classes: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn from softmax(logits / temperature), so that they are calibrated at it."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (num, num_classes))
    scaled = np.exp(logits / temperature)
    chances = scaled / scaled.sum(1, keepdims=True)
    labels = [generator.choice(num_classes, p=chance) for chance in chances]
    return torch.tensor(logits), torch.tensor(labels)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("num", [45, 2000])
def test_temperature_is_that_of_scipys_optimiser(num_classes: int, temperature: float, num: int) -> None:
    logits, labels = drawn(num, num_classes, temperature)

    def loss(log_temperature: float) -> float:
        scaled = logits.numpy() / math.exp(log_temperature)
        top = scaled.max(1)
        log_sums = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((log_sums - scaled[np.arange(num), labels.numpy()]).mean())

    best = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded",
                           options={"xatol": 1e-10})
    found = fit_temperature(logits.float(), labels)
    assert found == pytest.approx(math.exp(best.x), rel=1e-4)
    assert loss(math.log(found)) <= best.fun + 1e-12
    if num == 2000:
        assert found == pytest.approx(temperature, rel=0.2)


def test_temperature_stays_within_its_bounds_and_is_the_same_every_time() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]] * 20)
    right, wrong = torch.tensor([0, 1] * 20), torch.tensor([1, 0] * 20)
    assert fit_temperature(logits, right) == pytest.approx(LOWEST)
    assert fit_temperature(logits, wrong) == pytest.approx(HIGHEST)
    logits, labels = drawn(45, 3, 2.0)
    assert fit_temperature(logits, labels) == fit_temperature(logits.clone(), labels.clone())


def test_brier_score_is_its_definition() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)
    assert brier_score(probabilities, torch.tensor([0, 0, 1])) == pytest.approx((0.08 + 0.98 + 0.5) / 3)


def test_calibration_error_has_bins_of_equal_mass_and_an_interval() -> None:
    assert [num_bins(num) for num in (30, 45, 100, 1000)] == [3, 4, 5, 10]
    # 64 images in 4 bins of 16: confidences 0.6, 0.7, 0.8, 0.9, of which 10, 11, 13 and 16 are right.
    confidence = torch.tensor([0.6, 0.7, 0.8, 0.9], dtype=torch.float64).repeat_interleave(16)
    right = torch.cat([torch.arange(16) < count for count in (10, 11, 13, 16)])
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    labels = (~right).long()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    error, low, high = calibration_error(probabilities[order], labels[order])
    expected = (abs(10 / 16 - 0.6) + abs(11 / 16 - 0.7) + abs(13 / 16 - 0.8) + abs(16 / 16 - 0.9)) / 4
    assert error == pytest.approx(expected)
    assert low is not None and high is not None and 0 < low < high < 0.3


def test_interval_of_the_calibration_error_agrees_with_a_bootstrap_by_hand() -> None:
    logits, labels = drawn(200, 3, 1.0, seed=3)
    probabilities = (logits * 2).softmax(1)
    _, low, high = calibration_error(probabilities, labels)
    generator, found = np.random.default_rng(7), []
    confidence, predicted = (x.numpy() for x in probabilities.max(1))
    right = predicted == labels.numpy()
    for _ in range(600):
        picks = generator.integers(0, 200, 200)
        picks = picks[np.argsort(confidence[picks], kind="stable")]
        found.append(sum(abs((right[part].astype(float) - confidence[part]).sum())
                         for part in np.array_split(picks, num_bins(200))) / 200)
    assert [low, high] == pytest.approx(np.quantile(found, [0.025, 0.975]).tolist(), abs=0.015)


def test_figures_of_few_images_are_none_and_those_of_no_number_are_left_out() -> None:
    logits, labels = drawn(25, 2, 1.0)
    val = Evaluation(0.0, 0.0, logits, labels)
    found = calibration_figures(val, None)
    assert found["val_ece"] is None and found["val_nll_calibrated"] <= found["val_nll"] and "test_nll" not in found
    both = calibration_figures(val, Evaluation(0.0, 0.0, logits[:5], labels[:5]))
    assert both["temperature"] == found["temperature"] and both["test_brier"] >= 0
    assert found["calibration_note"] == "val has 25 images, and a calibration error needs 30"
    logits = logits.clone()
    logits[3, 0] = float("nan")
    found = calibration_figures(Evaluation(0.0, 0.0, logits, labels), None)
    assert found == {"calibration_note": "a logit is not finite, so nothing is calibrated"}


def test_model_without_an_error_in_validation_keeps_its_confidence() -> None:
    """The likelihood has no maximum then; at the lowest temperature every image would be certain."""
    logits, _ = drawn(45, 2, 1.0)
    found = calibration_figures(Evaluation(0.0, 1.0, logits, logits.argmax(1)), None)
    assert found["temperature"] == 1.0 and found["val_nll"] == found["val_nll_calibrated"]
    assert "no validation image is wrong" in found["calibration_note"]


def test_interval_of_many_images_takes_little_memory_and_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(300, 2, 1.0)
    found = calibration_error(logits.softmax(1), labels)
    monkeypatch.setattr("job.training.calibration.MOST_PICKS", 7 * 300)
    assert calibration_error(logits.softmax(1), labels) == pytest.approx(found, abs=1e-12)


def test_temperature_changes_no_ranking() -> None:
    logits, labels = drawn(300, 4, 2.5)
    temperature = fit_temperature(logits, labels)
    assert torch.equal((logits / temperature).argmax(1), logits.argmax(1))
