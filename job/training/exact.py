"""Exact statistics of counts, without scipy: McNemar's test, Clopper-Pearson intervals, Holm's correction."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
# Bisection halves the interval from 0 to 1 so often; that is more than a float can tell apart.
HALVINGS = 60


@dataclass(frozen=True)
class Share:
    """So many of so many, with the exact 95% interval of Clopper and Pearson (1934); 0 of 0 has the value 0."""

    num_right: int
    num: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.num_right / self.num if self.num else 0.0

    @property
    def count(self) -> str:
        """The share without its interval: 0.7778 (35 of 45)."""
        return f"{self.value:.4f} ({self.num_right} of {self.num})"

    def __str__(self) -> str:
        return (f"{self.value:.4f} ({self.num_right} of {self.num}; 95% interval {self.low:.3f} to "
                f"{self.high:.3f})")


@functools.lru_cache(maxsize=100_000)
def share(num_right: int, num: int) -> Share:
    """Return num_right of num with its exact interval.

    Its lower bound is the p at which num_right or more hits have the probability 2.5%, its upper bound the p at which
    num_right or fewer have it. Costs num operations a halving: 0.5 s for 250,000 images.
    """
    assert 0 <= num_right <= num
    low = bound(num_right, num) if num_right else 0.0
    high = 1 - bound(num - num_right, num) if num_right < num else 1.0
    return Share(num_right, num, low, high)


def bound(num_hits: int, num: int) -> float:
    """Return the p at which at least num_hits of num have the probability LEVEL / 2; num_hits is at least 1."""
    counts = np.arange(num_hits, num + 1)
    log_choices = math.lgamma(num + 1) - np.array(
        [math.lgamma(k + 1) + math.lgamma(num - k + 1) for k in range(num_hits, num + 1)])
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        p = (low + high) / 2
        tail = np.exp(log_choices + counts * math.log(p) + (num - counts) * math.log1p(-p)).sum() if p < 1 else 1.0
        low, high = (p, high) if tail < LEVEL / 2 else (low, p)
    return (low + high) / 2


def coin(num_heads: int, num: int) -> float:
    """Return the probability that a fair coin, thrown num times, shows num_heads heads or fewer."""
    log_half = num * math.log(0.5)
    return math.fsum(math.exp(math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) + log_half)
                     for k in range(num_heads + 1))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally accurate on the same images.

    only_first, only_second: how many images only that classifier has right. If the two are equally accurate, each of
    these images is a fair coin toss. The p-value is the two-sided binomial probability of a split at least as uneven
    (McNemar 1947, exact form); 1 if they never differ.
    """
    return min(1.0, 2 * coin(min(only_first, only_second), only_first + only_second))


def mcnemar_better(only_first: int, only_second: int) -> float:
    """Return the one-sided p-value of the same test: that the first classifier is not more accurate than the second."""
    return min(1.0, coin(only_second, only_first + only_second))


def holm(p_values: Sequence[float], least: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number (Holm 1979), in the same order.

    least: the smallest p-value that each test can attain. One that cannot attain 0.05, because two trials hardly ever
    differ, can never be rejected and is not counted (Tarone 1990). If each hypothesis whose corrected value is at most
    0.05 is rejected, the probability that any of these is true is at most 5%, however the tests depend on each other.
    """
    counted = [index for index, p in enumerate(least) if p <= LEVEL]
    corrected = [min(1.0, max(1, len(counted)) * p) for p in p_values]
    largest = 0.0
    for place, index in enumerate(sorted(counted, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(counted) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
