"""What a person sees while trials run: a bar with the time left on a terminal, else one line per epoch."""

import collections
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from job.folder.escape import for_terminal, lines_for_terminal
from job.record import Epoch, Row
from job.trial import Trial

if TYPE_CHECKING:
    from job.data.pack import Passport

MOST_LINES = 20


def clock(seconds: float) -> str:
    """Return seconds as 45s, 3m05s or 2h03m."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def plural(number: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`."""
    return f"{number} {noun}{'s' * (number != 1)}"


@dataclass(frozen=True)
class Position:
    """Where a run stands in its sweep: trials with a row, all trials, epochs left in the other runs, processes."""

    num_done: int = 0
    num_trials: int = 0
    other_epochs: int = 0
    num_workers: int = 1


class Display:
    """Shows one activity after another on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(),
                            TextColumn("{task.fields[note]}"), console=console, transient=True)
        self.task = self.bar.add_task("", total=None, visible=False, note="")
        self.started = time.monotonic()
        self.resumed_share, self.num_epochs, self.figures = 0.0, 0, ""
        self.position = Position()

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, text: str) -> None:
        """Print a text that stays on the screen, escaped."""
        text = lines_for_terminal(text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def begin(self, what: str, total: int, done: int = 0, num_epochs: int = 0) -> None:
        """Start an activity of `total` parts, `done` of which were finished before; num_epochs: those of a training."""
        self.started, self.resumed_share = time.monotonic(), done / total if total else 0.0
        self.num_epochs, self.figures = num_epochs, ""
        self.bar.reset(self.task, description=what, total=total, completed=done, visible=True, note="")

    def advance_to(self, done: int) -> None:
        """Show that this many parts are finished, and the time left."""
        if self.console.is_terminal:
            total = self.bar.tasks[self.task].total or 1
            self.bar.update(self.task, completed=done, note=f"{self.figures}{self.left(done / total)}")

    def end(self) -> None:
        """Remove the activity's bar."""
        self.bar.update(self.task, visible=False)

    def left(self, share: float) -> str:
        """Return the time left for the activity, and for the sweep if other runs are left too, by the pace so far."""
        new, elapsed = share - self.resumed_share, time.monotonic() - self.started
        if new <= 0:
            return ""
        own, place = (1 - share) * elapsed / new, self.position
        if not place.other_epochs or not self.num_epochs:
            return f"{clock(own)} left"
        sweep = own + place.other_epochs * elapsed / new / self.num_epochs
        return f"{clock(own)} left, sweep {clock(max(own, sweep / place.num_workers))}"

    def packing(self, done: int, total: int) -> None:
        """Show how many images are decoded; the first call says 0."""
        if done == 0:
            self.begin(f"preparing {plural(total, 'image')}", total)
        self.advance_to(done)
        if done == total:
            self.end()

    def passport(self, passport: "Passport") -> None:
        """Show what the pack holds, and each image that is not in it."""
        splits = ", ".join(f"{split} {sum(counts.values())}" for split, counts in passport.counts.items())
        shares = collections.Counter[str]()
        for counts in passport.counts.values():
            shares.update(counts)
        classes = for_terminal(", ".join(f"{name} {shares[name]}" for name in passport.classes))
        self.say(f"pack {passport.pack_hash[:12]}: {passport.num_images} images ({splits}; {classes})")
        some = [f"rejected {item['image']}: {item['reason']}" for item in passport.rejected]
        some += [f"byte-identical: {', '.join(names)}" for names in passport.duplicates]
        some += [f"near-identical: {', '.join(names)}" for names in passport.near_duplicates]
        some += [f"left out of training, because another split has it too: {name}" for name in passport.left_out]
        for text in some[:MOST_LINES]:
            self.say(f"  {for_terminal(text)}")
        if len(some) > MOST_LINES:
            self.say(f"  ... and {len(some) - MOST_LINES} more in pack/passport.json")
        for text in passport.warnings:
            self.say(f"  warning: {for_terminal(text)}")

    def runs(self, groups: Sequence[Sequence[Trial]], num_trials: int, is_race: bool = False) -> None:
        """Say what the sweep trains: the trials without a row, each group one run, its longest trial last."""
        num_left, epochs = sum(map(len, groups)), sum(group[-1].epochs for group in groups)
        if not groups:
            self.say(f"each of the {num_trials} trials has its row; nothing is left to train")
            return
        saved = sum(trial.epochs for group in groups for trial in group) - epochs
        runs = f" in {plural(len(groups), 'run')}" if len(groups) < num_left else ""
        at_most = "a race, at most " if is_race else ""
        self.say(f"training {num_left} of {plural(num_trials, 'trial')}{runs}: {at_most}{plural(epochs, 'epoch')}"
                 f"{f' (trajectories save {saved})' if saved else ''}")

    def trial(self, trial: Trial, epoch: int, num_steps: int, done: int) -> None:
        """Start the bar of a trial after this epoch, with `done` of its steps."""
        self.begin(self.heading(trial, epoch + 1), num_steps, done, trial.epochs)

    def epoch(self, trial: Trial, epoch: Epoch) -> None:
        """Show an epoch's figures: beside the bar, drawn at once because epochs may be short; or on a line."""
        if self.console.is_terminal:
            loss = "" if self.console.width < 110 else f"loss {epoch.train_loss:.3f} val {epoch.val_loss:.3f}  "
            self.figures = f"{loss}val acc {epoch.val_acc:.3f}  "
            self.bar.update(self.task, description=self.heading(trial, epoch.epoch + 1),
                            note=f"{self.figures}{self.left(epoch.epoch / trial.epochs)}", refresh=True)
        else:
            figures = (f"loss {epoch.train_loss:.4f}, val {epoch.val_loss:.4f}  accuracy {epoch.train_acc:.3f}, "
                       f"val {epoch.val_acc:.3f}  {epoch.images_per_second or 0:.0f} images/s")
            self.say(f"{self.heading(trial, epoch.epoch)}  {figures}  {self.left(epoch.epoch / trial.epochs)}")

    def heading(self, trial: Trial, epoch: int) -> str:
        """Return the trial's name, its number in the sweep, and the epoch."""
        place = self.position
        number = f" ({min(place.num_done + 1, place.num_trials)} of {place.num_trials})" if place.num_trials > 1 else ""
        return f"trial {trial.trial}{number}  epoch {min(epoch, trial.epochs)}/{trial.epochs}"

    def row(self, row: Row, already: bool) -> None:
        """Show a trial's outcome, and count it."""
        if not already:
            self.position = replace(self.position, num_done=self.position.num_done + 1)
        settings = f"lr {row.settings.get('lr', Trial.lr):g}, {plural(row.settings.get('epochs', 0), 'epoch')}"
        if row.status == "failed":
            self.say(f"trial {row.trial}  FAILED ({settings}): {row.cause}")
            return
        best = "" if row.best_val_acc is None else f"best val accuracy {row.best_val_acc:.3f} at epoch {row.best_epoch}"
        test = f", test accuracy {row.test_acc:.3f}" if row.test_acc is not None else ""
        self.say(f"trial {row.trial}  {'already ' if already else ''}{row.status} ({settings}): {best}{test}"
                 f"  in {clock(row.seconds or 0)}{'; ' + row.cause if row.cause else ''}")


def open_display(stderr: bool = False, in_worker: bool = False) -> Display:
    """Return a display on standard output or standard error, silent under --quiet; in a worker it has no bar."""
    quiet = bool(os.environ.get("TRIALGRID_QUIET"))
    return Display(Console(stderr=stderr, quiet=quiet, force_terminal=False if in_worker else None))
