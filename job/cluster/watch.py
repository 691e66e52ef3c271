"""The status of a sweep on the screen, once or after each change."""

import contextlib
import time
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from job.cluster.status import SweepStatus, TrialStatus, pack_status, status_json, sweep_status
from job.errors import BadData, TryAgain
from job.folder.escape import lines_for_terminal
from job.folder.storage import Folder
from job.results.intact import refuse_damaged
from job.results.json_output import print_json
from job.results.terminal import Column, console, fitting, table_of
from job.training.display import clock

WATCH_SECONDS = 5.0


def watch_status(sweep: Folder, as_json: bool = False) -> None:
    """Show the status again and again until every trial has a row; into a pipe, or as JSON, after each change.

    An outage of the storage is reported, and waited for. Raises BadData at the end if a file is damaged.
    """
    screen, before = console(), None
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            try:
                found, pack = sweep_status(sweep), pack_status(sweep)
            except TryAgain as error:
                Console(stderr=True).print(lines_for_terminal(f"{error}; asking again"), markup=False, highlight=False)
                time.sleep(WATCH_SECONDS)
                continue
            now = [(item.state, item.epoch, item.place) for item in found]
            if as_json and now != before:
                with contextlib.suppress(BadData):
                    print_json("status", sweep, status_json(found, pack), indent=None)
            elif screen.is_terminal and not as_json:
                live.update(render(found, pack, screen.width), refresh=True)
            elif now != before:
                screen.print(render(found, pack, screen.width))
            before = now
            if all(item.has_row for item in found):
                break
            time.sleep(WATCH_SECONDS)
    if screen.is_terminal and not as_json:
        screen.print(render(found, "", screen.width))
    refuse_damaged(found.damaged)


def print_status(found: SweepStatus, pack: str, screen: Console | None = None) -> None:
    """Print a table of the trials, the causes of failures and stops, and how many trials are in which state.

    Raises BadData at the end if a file is damaged.
    """
    screen = screen or console()
    screen.print(render(found, pack, screen.width))
    refuse_damaged(found.damaged)


def render(found: SweepStatus, pack: str, width: int) -> RenderableType:
    """The table as wide as the screen, a line for each cause, and the counts."""
    def figures(name: str, kind: str) -> list[str]:
        return ["" if (value := getattr(item, name)) is None else format(value, kind) for item in found]

    best = ["" if item.best_val_acc is None else f"{item.best_val_acc:.3f} @{item.best_epoch}" for item in found]
    left = ["" if item.seconds_left is None else clock(item.seconds_left) for item in found]
    columns = [
        Column("trial", [f"{item.trial.trial}{' *' * item.is_best}" for item in found], left=True),
        Column("lr", [f"{item.trial.lr:g}" for item in found]),
        Column("state", [item.state for item in found], left=True),
        Column("rung", [f"{item.rung}: {item.place} of {item.num_at_rung}" if item.rung else "" for item in found], 2),
        Column("epoch", [f"{item.epoch}/{item.trial.epochs}" for item in found]),
        Column("best val acc", best),
        Column("last val acc", figures("last_val_acc", ".3f"), 1),
        Column("last val loss", figures("last_val_loss", ".3f"), 3),
        Column("images/s", figures("images_per_second", ".0f"), 4),
        Column("left", left, 2),
        Column("attempts", [str(item.attempts) for item in found], 5),
        Column("where", [item.host for item in found], 6, left=True)]
    shown = fitting(columns, width)
    table = table_of(shown, ["bold" if item.is_best else None for item in found])
    texts = [pack] if pack else []
    hidden = [column.heading for column in columns if column not in shown and any(column.cells)]
    texts += [f"hidden at {width} columns: {', '.join(hidden)}"] if hidden else []
    texts += [cause_line(item) for item in found if item.cause and item.state not in ("paused", "raced", "damaged")]
    texts += [*(f"a file is damaged: {item}" for item in found.damaged), *found.notes]
    texts += ["rung: the last one that a trial has reached in the race, and its place there now"] * any(
        item.rung for item in found)
    counts = Counter("within a longer trial" if item.state.startswith("with ") else item.state for item in found)
    texts.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    if any(item.is_best for item in found):
        texts[-1] += "; * ranked first so far, @ its best epoch"
    return Group(table, *(Text(lines_for_terminal(text)) for text in texts))


def cause_line(item: TrialStatus) -> str:
    """Return why a trial stopped or failed, without saying `stopped` twice."""
    state = "" if item.cause.startswith(item.state) else f" {item.state}"
    return f"trial {item.trial.trial}{state}: {item.cause}"
