"""Draw the README's pictures of a finished sweep as SVG: the table of `job gather`, and the validation curves.

Run it at the root of the repository, after scripts/demo: `.venv/bin/python scripts/pictures.py demo/sweep`. The same
sweep folder gives the same files.
"""

import argparse
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.errors import JobError, MissingInput
from job.folder.groups import trajectories
from job.folder.layout import WORKBOOK
from job.folder.storage import Folder, open_folder
from job.results.ranking import as_trial, natural
from job.results.summary import Summary, collect
from job.results.terminal import print_gathered

COLUMNS = 120
WIDTH, LEFT, RIGHT, TOP, KEY, LINE = 900, 62, 540, 62, 580, 26
LEAST_HEIGHT = 300
LABEL_HEIGHT, LETTER = 15, 9
MOST_LETTERS = 7
# Two palettes of equal hue: on white, and on the dark ground of prefers-color-scheme.
LIGHT = ("#0072b2", "#b8500b", "#007a5c", "#a8327d", "#6b5b00", "#c0232c", "#4a4fb5", "#4d4d4d")
DARK = ("#5cb3ff", "#ff9d57", "#3ddbb0", "#f08fc8", "#e0cb4a", "#ff7b7b", "#a6aaff", "#c8c8c8")


@dataclass(frozen=True)
class Curve:
    """The validation accuracy of a trial, epoch by epoch; trials of one trajectory have one colour."""

    name: str
    settings: str
    points: list[tuple[float, float]]
    best: float
    colour: int
    is_best: bool


def table_picture(sweep: Folder, summary: Summary) -> str:
    """Return what `job gather` prints, as SVG."""
    screen = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    print_gathered(sweep, summary, WORKBOOK, "", screen)
    # Rich's template fetches its font from the web. A picture in a README cannot: any monospace font must do.
    template = re.sub(r"@font-face \{\{.*?\}\}|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = template.replace("font-family: arial;", "font-family: Arial, Helvetica, sans-serif;")
    template = template.replace('<svg class="rich-terminal"', f'<svg class="rich-terminal" width="{WIDTH}"', 1)
    found = screen.export_svg(title=f"job gather {sweep.uri}", code_format=template)
    return "\n".join(line.rstrip() for line in found.splitlines()) + "\n"


def curves_of(summary: Summary) -> list[Curve]:
    """Return the curves of the trials that have a finite validation accuracy, sorted by name."""
    lines = {line["trial"]: line for _, line in summary.table.iterrows()}
    names = sorted(lines, key=natural)
    groups = trajectories([as_trial(lines[name]) for name in names])
    colours = {trial.trial: number for number, group in enumerate(groups) for trial in group}
    found = []
    for name in names:
        line, epochs = lines[name], summary.epochs[name]
        points = [(float(epoch), float(accuracy)) for epoch, accuracy in zip(epochs["epoch"], epochs["val_acc"],
                                                                             strict=True) if math.isfinite(accuracy)]
        if points:
            plural = "s" * (line["epochs"] != 1)
            found.append(Curve(name, f"lr {line['lr']:g}, {line['epochs']} epoch{plural}", points,
                               float(line["best_val_acc"]), colours[name] % len(LIGHT),
                               name == summary.recommendation.trial))
    return found


def ticks(least: float, most: float, steps: Iterable[float]) -> list[float]:
    """Return the ticks around [least, most] with the first of the steps that gives 8 at most."""
    for step in steps:
        low, high = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
        if high - low < 8:
            break
    return [number * step for number in range(low, max(high, low + 1) + 1)]


def style() -> str:
    """Return the style sheet: the light palette, and the dark one for a dark browser."""
    def rules(ground: str, ink: str, faint: str, palette: Sequence[str]) -> str:
        lines = [f".ground{{fill:{ground}}}", f"text{{fill:{ink}}}", f".grid{{stroke:{faint}}}",
                 f".halo{{stroke:{ground}}}"]
        return "".join(lines + [f".line{number}{{stroke:{colour}}}.fill{number}{{fill:{colour}}}"
                                for number, colour in enumerate(palette)])

    fixed = ("text{font:14px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif}"
             ".bold{font-weight:bold}"
             ".line{fill:none;stroke-width:2;stroke-linejoin:round}.thick{stroke-width:3}"
             ".halo{stroke-width:4;paint-order:stroke;stroke-linejoin:round}")
    dark = rules("#0d1117", "#e6edf3", "#30363d", DARK)
    return f"{fixed}{rules('#ffffff', '#1f2328', '#d8dee4', LIGHT)}@media(prefers-color-scheme:dark){{{dark}}}"


def text(x: float, y: float, words: str, names: str = "", anchor: str = "start") -> str:
    """Return a text element."""
    of_class = f' class="{names}"' if names else ""
    of_anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{of_class}{of_anchor}>{escape(words)}</text>'


def curves_picture(summary: Summary) -> str:
    """Return the validation accuracy of each trial over its epochs, as SVG with a key beside it."""
    curves = curves_of(summary)
    values = [value for curve in curves for _, value in curve.points]
    if not values:
        raise MissingInput("no trial has a finite validation accuracy; there is no curve to draw")
    levels = ticks(min(values), max(values), (0.01, 0.02, 0.05, 0.1, 0.2))
    last = max(2.0, *(epoch for curve in curves for epoch, _ in curve.points))
    epochs = sorted({1.0, *ticks(2, last, (1, 2, 5, 10, 20, 50, 100, 1000))} - {0.0})
    bottom = TOP + max(LEAST_HEIGHT, LINE * (len(curves) + 1))

    def place(epoch: float, value: float) -> tuple[float, float]:
        return (LEFT + (epoch - 1) / (last - 1) * (RIGHT - LEFT),
                bottom - (value - levels[0]) / (levels[-1] - levels[0]) * (bottom - TOP))

    parts = [text(LEFT, 28, "Validation accuracy of each trial", "bold")]
    for value in levels:
        y = place(1, value)[1]
        parts += [f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>',
                  text(LEFT - 10, y + 5, f"{value:.2f}", anchor="end")]
    parts += [text(place(epoch, levels[0])[0], bottom + 22, f"{epoch:g}", anchor="middle")
              for epoch in epochs if epoch <= last]
    parts.append(text((LEFT + RIGHT) / 2, bottom + 44, "epoch", anchor="middle"))
    lines = [[place(*point) for point in curve.points] for curve in curves]
    parts += [draw_curve(curve, line) for curve, line in zip(curves, lines, strict=True)]
    parts += draw_names(curves, lines)
    parts += draw_key(curves)
    height = bottom + 62
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">')
    return "\n".join([head, "<title>Validation accuracy of each trial, by epoch</title>", f"<style>{style()}</style>",
                      f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>', *parts, "</svg>", ""])


def draw_curve(curve: Curve, points: Sequence[tuple[float, float]]) -> str:
    """Return a trial's line and a dot at its end."""
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    return (f'<path class="line line{curve.colour}{" thick" * curve.is_best}" d="M{line}"/>'
            f'<circle class="fill{curve.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{5 if curve.is_best else 4}"/>')


def draw_names(curves: Sequence[Curve], lines: Sequence[Sequence[tuple[float, float]]]) -> list[str]:
    """Return the trials' names at the ends of their lines: beside the last epoch, above a rise, below a fall."""
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for curve, line in zip(curves, lines, strict=True):
        (x, y), falls = line[-1], len(line) > 1 and line[-1][1] > line[-2][1]
        at_edge = x > RIGHT - 1
        x, y, step = (x + 10, y + 5, -LABEL_HEIGHT) if at_edge else (x, y + 19, LABEL_HEIGHT) if falls else (
            x, y - 9, -LABEL_HEIGHT)
        while any(abs(x - other_x) < LETTER * (len(curve.name) + 1) and abs(y - other_y) < LABEL_HEIGHT
                  for other_x, other_y in taken):
            y += step
        taken.append((x, y))
        parts.append(text(x, y, curve.name, f"bold halo fill{curve.colour}", "start" if at_edge else "middle"))
    return parts


def draw_key(curves: Sequence[Curve]) -> list[str]:
    """Return the key: per trial its line, its name, its settings and its best accuracy."""
    parts = [text(KEY + 34, TOP + 4, "trial"), text(WIDTH - 20, TOP + 4, "best", anchor="end")]
    names = [name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS - 1]}…" for name in (c.name for c in curves)]
    settings = KEY + 34 + max(5, *map(len, names)) * LETTER
    for number, curve in enumerate(curves, 1):
        y, bold = TOP + 4 + LINE * number, " bold" * curve.is_best
        thick = " thick" * curve.is_best
        parts += [f"<g><title>trial {escape(curve.name)}</title>",
                  f'<path class="line line{curve.colour}{thick}" d="M{KEY} {y - 5}h24"/>',
                  text(KEY + 34, y, names[number - 1], f"bold fill{curve.colour}"),
                  text(settings, y, curve.settings, bold.strip()),
                  text(WIDTH - 20, y, f"{curve.best:.3f}", bold.strip(), "end"), "</g>"]
    return parts


def main() -> int:
    """Draw both pictures of the sweep named on the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", help="the sweep's folder: a path or s3://bucket/folder")
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="the folder of the pictures (docs/img)")
    given = parser.parse_args()
    try:
        sweep = open_folder(given.sweep)
        # The pictures show the folder's name on the command line, not its place on this machine.
        sweep.uri = given.sweep
        summary = collect(sweep)
        pictures = {"gather.svg": table_picture(sweep, summary), "curves.svg": curves_picture(summary)}
    except JobError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return error.exit_code
    given.out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (given.out / name).write_text(picture)
        print(given.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
