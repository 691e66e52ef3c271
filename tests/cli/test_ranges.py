"""Drawn grids: points that cover their ranges evenly, the same for ever, and every fault names its option."""

import math
from collections import Counter
from typing import Any

import pytest

from job.cli.ranges import LEAST_DIGITS, Range, draw, halton
from job.folder.grid import parse_grid
from support import job

BOTH = {"lr": Range(1e-4, 1e-1), "dropout": Range(0.0, 0.5)}


@pytest.mark.parametrize(("base", "num"), [(2, 64), (3, 81), (5, 125), (7, 49), (23, 529)])
@pytest.mark.parametrize("seed", range(3))
def test_each_of_equal_parts_of_a_range_has_one_point(base: int, num: int, seed: int) -> None:
    coordinate = halton(base, seed)
    for first in (0, num, 5 * num):
        parts = sorted(int(coordinate(first + number) * num) for number in range(num))
        assert parts == list(range(num))
    # Of any number of points, no part has more than one too many.
    filled = Counter(int(coordinate(number) * base) for number in range(24))
    assert max(filled.values()) - min(filled.get(part, 0) for part in range(base)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_every_two_settings_cover_their_boxes_evenly(seed: int) -> None:
    first, second, third = (halton(base, seed) for base in (2, 3, 5))
    boxes = Counter((int(first(number) * 4), int(second(number) * 9)) for number in range(36))
    assert len(boxes) == 36 and set(boxes.values()) == {1}
    for one, other in ((first, second), (first, third), (second, third)):
        quadrants = Counter((one(number) < 0.5, other(number) < 0.5) for number in range(64))
        assert len(quadrants) == 4 and max(quadrants.values()) - min(quadrants.values()) <= 4


def test_points_follow_the_scale_and_stay_within_their_ranges() -> None:
    ranges = {**BOTH, "epochs": Range(5, 8), "batch_size": Range(8, 256), "weight_decay": Range(1.00001e-6, 1.00002e-6)}
    points = draw(ranges, 240, 0)
    for name, given in ranges.items():
        assert all(given.low <= point[name] <= given.high for point in points)
    # A third of the learning rates in each decade, a quarter of the points for each number of epochs.
    decades = Counter(math.floor(math.log10(point["lr"])) for point in points)
    assert {decade: round(count / 80, 1) for decade, count in decades.items()} == {-4: 1.0, -3: 1.0, -2: 1.0}
    assert all(55 <= count <= 65 for count in Counter(point["epochs"] for point in points).values())
    assert 110 <= sum(point["batch_size"] < 45 for point in points) <= 130
    assert {type(point[name]) for point in points for name in ("epochs", "batch_size")} == {int}
    assert sum(point["dropout"] for point in points) / 240 == pytest.approx(0.25, abs=0.01)
    assert len({point["lr"] for point in points}) == len({point["weight_decay"] for point in points}) == 240
    assert all(float(f"{point['lr']:.{LEAST_DIGITS}g}") == point["lr"] for point in points)


def test_same_seed_draws_the_same_points_and_more_of_them_begin_with_these() -> None:
    assert draw(BOTH, 48, 0)[:24] == draw(BOTH, 24, 0)
    assert draw({"lr": BOTH["lr"]}, 24, 0) == [{"lr": point["lr"]} for point in draw(BOTH, 24, 0)]
    drawn = [tuple(point["lr"] for point in draw(BOTH, 24, seed)) for seed in range(20)]
    assert len(set(drawn)) == 20
    # A sweep that was drawn with an earlier version gets the same trials again.
    assert draw(BOTH, 3, 0) == [{"lr": 0.07647, "dropout": 0.2335}, {"lr": 0.002418, "dropout": 0.4002},
                                {"lr": 0.0136, "dropout": 0.06686}]


def test_drawn_points_come_with_every_combination_of_listed_values_and_in_every_fold() -> None:
    words = ("grid", "--lr", "1e-4..1e-1", "--weight-decay", "1e-6..1e-3", "--epochs", "4..9", "--num", 6)
    done = job(*words, "--optimizer", "sgd", "--optimizer", "adam", "--seed", 0, "--seed", 1)
    assert done.code == 0, done.err
    trials = parse_grid(done.out)
    assert [trial.trial for trial in trials] == [str(number) for number in range(1, 25)]
    points = [(trial.lr, trial.weight_decay, trial.epochs) for trial in trials]
    assert points[::4] == points[1::4] == points[2::4] == points[3::4] and len(set(points)) == 6
    assert [(trial.optimizer, trial.seed) for trial in trials[:4]] == [("sgd", 0), ("sgd", 1), ("adam", 0), ("adam", 1)]
    folds = parse_grid(job(*words, "--folds", 3, "--draw-seed", 1).out)
    assert [trial.trial for trial in folds[:4]] == ["1-f1", "1-f2", "1-f3", "2-f1"] and len(folds) == 18
    assert len({(trial.lr, trial.epochs) for trial in folds}) == 6 and not {trial.lr for trial in folds} & {
        trial.lr for trial in trials}


@pytest.mark.parametrize(("words", "code", "part"), [
    ("--lr 1e-4..", 2, "'1e-4..'; give numbers as LOW..HIGH, such as 1e-4..1e-1"),
    ("--lr ..1", 2, "give numbers as LOW..HIGH"), ("--lr a..b", 2, "'a..b'; give numbers as LOW..HIGH"),
    ("--epochs 1..2.5", 2, "give whole numbers as LOW..HIGH, such as 10..50"),
    ("--lr 0.1..0.1", 2, "LOW must be less than HIGH"), ("--lr 1..0.1", 2, "LOW must be less than HIGH"),
    ("--lr nan..1", 2, "LOW must be less than HIGH"), ("--num 0", 2, "give a number from 1 to 100000"),
    ("--num 100001", 2, "give a number from 1 to 100000"), ("--num 1..5", 2, "give a whole number"),
    ("--freeze no..yes", 2, "'--freeze': it is 'no..yes'; give yes or no"),
    ("--lr 1e-4..1e-1 --optimizer a..b", 78, "--optimizer is 'a..b'"),
    ("--lr 1e-4..1e-1", 78, "--lr is a range, 0.0001..0.1; say with --num how many points"),
    ("--lr 0.1", 78, "--num has no effect without a range"),
    ("--lr 0..1", 78, "--lr is 0..1; LOW must be greater than 0"), ("--lr 1..inf", 78, "--lr is 1..inf; give finite"),
    ("--weight-decay 0..1e-3", 78, "--weight-decay is 0..0.001; it is drawn on a logarithmic scale"),
    ("--dropout 0..1", 78, "--dropout is 0..1; the most is 0.95"),
    ("--epochs 0..9", 78, "--epochs is 0..9; the least is 1"),
    ("--lr 1e-4..1e-1 --lr 0.1", 78, "--lr is given 2 times, once with a range"),
    ("--seed 0..9", 78, "--seed takes no range: seeds have no order"), ("--folds 2..9", 78, "--folds takes no range"),
    ("--fold 1..5", 78, "--fold takes no range"), ("--image-size 33..224", 78, "--image-size takes no range"),
    ("--train-size 0..224", 78, "--train-size takes no range"), ("--recall 0.5..1", 78, "--recall takes no range"),
    ("--warmup 20..24 --epochs 10", 78, "--warmup is 2"), ("--epochs 1..5", 78, "has only 5 different points"),
    ("--lr 5e-324..1e-323", 78, "gave only 2 different points"),
    # Known at once: drawing so many took minutes.
    ("--epochs 1..99 --batch-size 1..1000 --num 100000", 78, "has only 99000 different points")])
def test_wrong_range_names_its_option_and_what_to_give(words: str, code: int, part: str) -> None:
    num: tuple[Any, ...] = () if "--num" in words or "0.0001..0.1" in part else ("--num", 24)
    done = job("grid", *words.split(), *num)
    assert done.code == code and part in " ".join(done.err.replace("│", " ").split()), done.err
    assert not done.out and "Traceback" not in done.err
