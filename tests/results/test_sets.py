"""Prediction sets against quantiles made by hand, and their promise on drawn images."""

import numpy as np
import pandas as pd
import pytest

from job.errors import BadConfig
from job.results.sets import in_set, least_images, score_limit, sets_of


def test_images_that_a_coverage_needs() -> None:
    assert [least_images(coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    assert [score_limit(np.zeros(least), coverage) is None for coverage, least in ((0.9, 8), (0.9, 9), (0.99, 98))] == [
        True, False, True]


def test_limit_is_the_quantile_by_hand() -> None:
    scores = np.array([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8])
    # ceil(10 * 0.9) = 9th of 9, ceil(10 * 0.8) = 8th, ceil(10 * 0.55) = 6th.
    assert [score_limit(scores, coverage) for coverage in (0.9, 0.8, 0.55)] == [0.9, 0.8, 0.6]
    generator = np.random.default_rng(0)
    for num in (9, 10, 19, 45, 100, 333):
        scores = generator.random(num)
        for tenths in (5, 8, 9):
            rank = -(-(num + 1) * tenths // 10)  # in whole numbers
            assert score_limit(scores, tenths / 10) == sorted(scores)[rank - 1]


def test_set_has_the_most_probable_class_first_and_may_be_empty() -> None:
    assert in_set([0.2, 0.7, 0.1], 0.8) == [1, 0]
    assert in_set([0.2, 0.7, 0.1], 0.3) == [1]
    assert in_set([0.2, 0.7, 0.1], 0.29) == []
    assert in_set([0.5, 0.5], 0.5) == [0, 1]


def table(num_val: int, num_test: int, seed: int = 0) -> pd.DataFrame:
    """Predictions of a calibrated model of three classes."""
    generator = np.random.default_rng(seed)
    num = num_val + num_test
    chances = generator.dirichlet([0.6, 0.6, 0.6], num)
    labels = [generator.choice(3, p=chance) for chance in chances]
    found = pd.DataFrame(chances, columns=["p_a", "p_b", "p_c"])
    found["label"] = [list("abc")[label] for label in labels]
    found["split"] = ["val"] * num_val + ["test"] * num_test
    return found


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_promised_share_of_test_images_has_its_class_in_the_set(coverage: float) -> None:
    found = [sets_of(table(45, 400, seed), ["a", "b", "c"], coverage) for seed in range(200)]
    shares = [one.num_covered / one.num_test for one in found]
    assert coverage - 0.01 < np.mean(shares) < coverage + 1 / 46 + 0.01
    assert all(0.5 < one.mean_size <= 3 for one in found)


def test_too_few_validation_images_give_no_sets_and_say_so() -> None:
    found = sets_of(table(8, 20), ["a", "b", "c"], 0.9)
    assert found.limit is None and found.reason == "a coverage of 0.9 needs 9 validation images, and there are 8"
    without_test = sets_of(table(20, 0), ["a", "b", "c"], 0.9)
    assert without_test.limit is not None and (without_test.num_test, without_test.mean_size) == (0, 0.0)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 1.5, -1, float("nan")])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(BadConfig, match=r"such as 0\.9"):
        sets_of(table(20, 5), ["a", "b", "c"], coverage)
