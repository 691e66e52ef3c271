"""Exact statistics are those of scipy, which the program does without."""

import pytest
from scipy.stats import binomtest, false_discovery_control

from job.training.exact import holm, mcnemar, mcnemar_better, share


@pytest.mark.parametrize("first", [0, 1, 3, 10, 400])
@pytest.mark.parametrize("second", [0, 1, 7, 450])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    num = first + second
    assert mcnemar(first, second) == pytest.approx(binomtest(first, num, 0.5).pvalue if num else 1.0, rel=1e-9)
    better = binomtest(first, num, 0.5, alternative="greater").pvalue if num else 1.0
    assert mcnemar_better(first, second) == pytest.approx(better, rel=1e-9)


@pytest.mark.parametrize(("hits", "num"), [
    (0, 1), (1, 1), (0, 45), (1, 45), (36, 45), (44, 45), (45, 45), (1, 1000), (500, 1000), (49_321, 50_000),
    (50_000, 50_000), (3, 250_000)])
def test_intervals_are_those_of_clopper_and_pearson(hits: int, num: int) -> None:
    found, expected = share(hits, num), binomtest(hits, num).proportion_ci(0.95, "exact")
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], rel=1e-7)
    assert found.value == hits / num and f"{hits} of {num}; 95% interval {expected.low:.3f} to" in str(found)


def test_share_of_no_image_may_be_anything() -> None:
    found = share(0, 0)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 1.0)


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], [0] * 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([], []) == [] and holm([0.2], [0]) == [0.2] and holm([0.9, 0.8], [0, 0]) == [1.0, 1.0]
    # Holm rejects no more than Benjamini and Hochberg.
    values = [0.001, 0.2, 0.012, 0.03, 0.6]
    found, others = holm(values, [0] * 5), false_discovery_control(values)
    assert all(ours >= other - 1e-12 for ours, other in zip(found, others, strict=True))


def test_tests_that_can_never_reject_are_not_counted() -> None:
    """Those of trials that hardly differ: most trials of a trajectory share their best epoch."""
    assert holm([0.01, 1.0, 1.0, 0.5], [0.001, 1.0, 1.0, 0.06]) == pytest.approx([0.01, 1.0, 1.0, 0.5])
    assert holm([1.0, 0.06], [1.0, 0.06]) == pytest.approx([1.0, 0.06])
