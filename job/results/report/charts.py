"""The page's line charts, as the numbers that an SVG needs; the template only writes them down.

No chart library: the smallest with values at the points (uPlot, 50 kB) draws on a canvas, which neither prints
sharp nor is read aloud, and the usual ones take 1 to 4 MB of the page. This is SVG, a few kB per chart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 72, 12, 38
# Colours times dashes: so many lines look different. More would not be told apart by anybody.
NUM_COLOURS, NUM_DASHES = 8, 3
MOST_LINES = 20
MOST_POINTS = 120
# So many points of a line get a dot each.
MOST_DOTS = 40
# Losses of a learning rate that is too high are thousands of times those of a good one.
LOG_FROM = 30.0
LABEL_HEIGHT = 12.0
SHORT_LABEL = 10


@dataclass(frozen=True)
class Point:
    """A value of a line, and its place in pixels of the drawing. low, high: the ends of its interval, if it has one."""

    at: float
    value: float
    x: float = 0.0
    y: float = 0.0
    is_best: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One line: its points in order, and how it looks. label: at its end."""

    name: str
    points: list[Point]
    colour: int = 0
    dash: int = 0
    is_chosen: bool = False
    order: int = 0
    label_y: float = 0.0

    @property
    def path(self) -> str:
        """The points as an SVG path's `d`."""
        return "M" + "L".join(f"{point.x:.1f} {point.y:.1f}" for point in self.points)

    @property
    def label(self) -> str:
        """The name, cut to what fits beside the line."""
        return self.name if len(self.name) <= SHORT_LABEL else f"{self.name[:SHORT_LABEL - 1]}…"

    @property
    def dots(self) -> list[Point]:
        """The points that get a dot: all of a short line, else the best one."""
        return [point for point in self.points if len(self.points) <= MOST_DOTS or point.is_best]


@dataclass(frozen=True)
class Axis:
    """A scale: values from `low` to `high` lie on pixels from `start` to `end`. ticks: (pixel, text)."""

    name: str
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    values: list[float] = field(default_factory=list)

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = (math.log(v) for v in (self.low, self.high, value)) if self.is_log else (
            self.low, self.high, value)
        return self.start + (at - low) / (high - low or 1) * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The pixel and the text of each value that is written at the axis."""
        return [(self.place(value), power(value) if self.is_log else f"{value:.6g}") for value in self.values]


@dataclass(frozen=True)
class Values:
    """The values of a chart as a table: a column per line, and rows of (epoch, texts)."""

    names: list[str]
    rows: list[tuple[int, list[str]]]


@dataclass(frozen=True)
class Chart:
    """A drawing of lines. text: what it shows, in a sentence, for who does not see it."""

    name: str
    title: str
    text: str
    x: Axis
    y: Axis
    lines: list[Line]
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def values(self) -> Values:
        """The values of the points; a * marks the best one of a line."""
        lines = sorted(self.lines, key=lambda line: line.order)
        texts = {(line.order, point.at): f"{point.value:.4f}{' *' * point.is_best}" for line in lines
                 for point in line.points}
        return Values([line.name for line in lines], [(int(at), [texts.get((line.order, at), "") for line in lines])
                                                      for at in sorted({at for _, at in texts})])


def chart(name: str, titles: tuple[str, str, str], lines: Iterable[Line], *, unit: bool = False,
          text: str = "") -> Chart | None:
    """Return a chart of these lines, None if no line has a point; titles: of the chart, of x and of y.

    unit: both axes run from 0 to 1. The y axis is logarithmic where the values are positive and differ by LOG_FROM.
    """
    lines = [line for line in lines if line.points]
    values = [point.value for line in lines for point in line.points]
    if not values:
        return None
    title, x_name, y_name = titles
    x_ends = (0.0, 1.0) if unit else ends([point.at for line in lines for point in line.points])
    is_log = not unit and min(values) > 0 and max(values) > LOG_FROM * min(values)
    x_ticks = steps(*x_ends, 5, whole=not unit)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if unit else decades(min(values), max(values)) if is_log else steps(
        min(values), max(values), 5)
    low, high = ends([*y_ticks, *values])
    x = Axis(x_name, *x_ends, LEFT, WIDTH - RIGHT, values=x_ticks)
    y = Axis(y_name + (", logarithmic" if is_log else ""), low, high, HEIGHT - BOTTOM, TOP, is_log, y_ticks)
    placed = [replace(line, points=[replace(point, x=x.place(point.at), y=y.place(point.value))
                                    for point in line.points]) for line in lines]
    return Chart(name, title, text, x, y, apart(placed))


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest value, a little apart if they are the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0) / 10)


def steps(low: float, high: float, num: int, whole: bool = False) -> list[float]:
    """Return about `num` round numbers from low to high; for a y axis the first and the last lie around them."""
    low, high = ends([low, high])
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
        return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [step * k for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten around these positive values, or every second or third of many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0 ** k for k in range(first, last + 1, max(1, math.ceil((last - first) / 6)))]


def power(value: float) -> str:
    """Return a power of ten as text, short enough to stand beside an axis."""
    return f"{value:g}" if 1e-4 < value < 1e5 else f"1e{round(math.log10(value))}"


def apart(lines: list[Line]) -> list[Line]:
    """Return the lines with their labels beside their ends, none upon another."""
    placed: list[Line] = []
    for line in sorted(lines, key=lambda line: line.points[-1].y):
        end = line.points[-1]
        near = [other.label_y for other in placed if abs(other.points[-1].x - end.x) < RIGHT]
        lowest = max(near, default=-math.inf) + LABEL_HEIGHT
        placed.append(replace(line, label_y=max(end.y, lowest)))
    # Labels that were pushed below the drawing move up again, the lowest first.
    bottom = HEIGHT - BOTTOM + LABEL_HEIGHT / 2
    found: list[Line] = []
    for line in sorted(placed, key=lambda line: -line.label_y):
        near = [other.label_y for other in found if abs(other.points[-1].x - line.points[-1].x) < RIGHT]
        found.append(replace(line, label_y=min(line.label_y, min(near, default=bottom + LABEL_HEIGHT) - LABEL_HEIGHT)))
    # The chosen one is drawn last, above the others.
    return sorted(found, key=lambda line: (line.is_chosen, -line.order))


def epoch_lines(epochs: dict[str, pd.DataFrame], names: Sequence[str], figure: str, chosen: str,
                best_epochs: dict[str, float]) -> list[Line]:
    """Return the line of one figure for each of these trials, thinned to about MOST_POINTS; names: best trial first."""
    longest = max((len(epochs[name]) for name in names), default=0)
    step = max(1, math.ceil(longest / MOST_POINTS))
    lines = []
    for number, name in enumerate(names):
        found = epochs[name]
        pairs = list(zip(found["epoch"].astype(float), found[figure].astype(float), strict=True)) if len(found) else []
        points = [Point(at, value, is_best=at == best_epochs.get(name)) for place, (at, value) in enumerate(pairs)
                  if math.isfinite(value) and (place % step == 0 or place == len(pairs) - 1
                                               or at == best_epochs.get(name))]
        look = number % NUM_COLOURS, number // NUM_COLOURS % NUM_DASHES
        lines.append(Line(name, points, *look, name == chosen, number))
    return lines
