"""Ranges of settings, LOW..HIGH, and the points that `job grid` draws from them."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from job.errors import BadConfig
from job.folder.grid import parse_number
from job.trial import Trial, quoted

# Drawn so that each factor is as likely as the next; all other settings so that each difference is.
ON_A_LOG_SCALE = ("lr", "weight_decay", "batch_size", "stop_min_delta")
SIZES = "models and packs take certain sizes alone, so list some"
NOT_DRAWN = {"seed": "seeds have no order, so list some", "image_size": SIZES, "train_size": SIZES,
             "fold": "folds have no order, so list some", "folds": "every setting needs the same number of folds",
             "recall": "it is what you ask of a model, not a setting to search"}
LEAST_DIGITS, MOST_DIGITS = 4, 17
PRIMES = [number for number in range(2, 100) if all(number % smaller for smaller in range(2, number))]


@dataclass(frozen=True)
class Range:
    """All numbers of a setting from `low` to `high`; integers if both are."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    @property
    def num_values(self) -> float:
        """How many values it has; infinity unless they are integers."""
        return self.high - self.low + 1 if isinstance(self.low, int) else math.inf


def parse_range(kind: type, text: str) -> Range:
    """Return LOW..HIGH as a range; raises ValueError."""
    low, _, high = text.partition("..")
    try:
        found = Range(parse_number(kind, low), parse_number(kind, high))
    except ValueError:
        example = "10..50" if kind is int else "1e-4..1e-1"
        raise ValueError(f"is {quoted(text)}; give {'whole numbers' if kind is int else 'numbers'} as LOW..HIGH, such "
                         f"as {example}") from None
    if not found.low < found.high:
        raise ValueError(f"is {quoted(text)}; LOW must be less than HIGH")
    return found


def ranges_of(found: Mapping[str, list[Any]]) -> dict[str, Range]:
    """Return the settings for which a range is given; raises BadConfig, naming the option, for one that cannot be."""
    ranges = {}
    for spec in fields(Trial):
        values = found.get(spec.name, [])
        if not any(isinstance(value, Range) for value in values):
            continue
        option, rule = f"--{spec.name.replace('_', '-')}", spec.metadata
        if spec.name in NOT_DRAWN:
            raise BadConfig(f"{option} takes no range: {NOT_DRAWN[spec.name]}")
        if len(values) > 1:
            raise BadConfig(f"{option} is given {len(values)} times, once with a range; give one range, or values")
        given: Range = values[0]
        if not math.isfinite(given.high):
            raise BadConfig(f"{option} is {given}; give finite numbers")
        if rule["above"] is not None and given.low <= rule["above"]:
            raise BadConfig(f"{option} is {given}; LOW must be greater than {rule['above']:.15g}")
        if rule["least"] is not None and given.low < rule["least"]:
            raise BadConfig(f"{option} is {given}; the least is {rule['least']:.15g}")
        if rule["most"] is not None and given.high > rule["most"]:
            raise BadConfig(f"{option} is {given}; the most is {rule['most']:.15g}")
        if spec.name in ON_A_LOG_SCALE and given.low <= 0:
            raise BadConfig(f"{option} is {given}; it is drawn on a logarithmic scale, so LOW must be greater than 0")
        ranges[spec.name] = given
    return ranges


def draw(ranges: Mapping[str, Range], num: int, seed: int) -> list[dict[str, float]]:
    """Return `num` different points of these ranges, each a value per setting; more of them begin with the same ones.

    Raises BadConfig where the ranges have not so many: of integers alone.
    """
    words = " and ".join(f"{name} {given}" for name, given in ranges.items())
    # Before a long search for what is not there.
    if (num_points := math.prod(given.num_values for given in ranges.values())) < num:
        raise BadConfig(f"--num is {num}, but {words} has only {num_points} different points; draw fewer, or from "
                        "wider ranges")
    coordinates = [halton(base, seed) for base in PRIMES[:len(ranges)]]
    points: dict[tuple[float, ...], None] = {}
    taken: dict[str, set[float]] = {name: set() for name in ranges}
    for number in range(100 * num + 1000):
        point = tuple(value_at(name, given, coordinate(number), taken[name])
                      for (name, given), coordinate in zip(ranges.items(), coordinates, strict=True))
        points[point] = None
        if len(points) == num:
            return [dict(zip(ranges, point, strict=True)) for point in points]
    raise BadConfig(f"--num is {num}, but {words} gave only {len(points)} different points; draw fewer, or from wider "
                    "ranges")


def value_at(name: str, given: Range, coordinate: float, taken: set[float]) -> float:
    """Return the value of a range at a coordinate from 0 to 1: an integer, or a number of few digits not yet taken."""
    is_whole = isinstance(given.low, int)
    # Of integers, each has the part of the range from itself to the next.
    top = given.high + 1 if is_whole else given.high
    if name in ON_A_LOG_SCALE:
        value = math.exp(math.log(given.low) + coordinate * (math.log(top) - math.log(given.low)))
    else:
        value = given.low + coordinate * (top - given.low)
    if is_whole:
        return min(max(int(value), given.low), given.high)
    for digits in range(LEAST_DIGITS, MOST_DIGITS + 1):
        rounded = min(max(float(f"{value:.{digits}g}"), given.low), given.high)
        if rounded not in taken:
            break
    taken.add(rounded)
    return rounded


def halton(base: int, seed: int) -> Callable[[int], float]:
    """Return the coordinate, from 0 to 1, of point 0, 1, 2, ... of a randomized Halton sequence in this prime base.

    The digits of the point's number, the last one first, become those after the point; each place permutes them in a
    way of its own. So base^k points that follow each other lie one in each of base^k equal parts, and in several bases
    evenly in boxes. Owen 2017, A randomized Halton algorithm in R, arXiv 1706.02808.
    """
    # Of all that `random` does, this alone is promised to stay the same: the numbers that a text as the seed gives.
    numbers = random.Random(f"{seed}/{base}")
    places: list[list[int]] = []
    while float(base) ** -len(places) > 2.0 ** -53:
        places.append([digit for _, digit in sorted((numbers.random(), digit) for digit in range(base))])

    def coordinate(number: int) -> float:
        value, weight = 0.0, 1.0
        for permuted in places:
            number, digit = divmod(number, base)
            weight /= base
            value += permuted[digit] * weight
        return value

    return coordinate
