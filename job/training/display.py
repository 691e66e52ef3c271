"""What a person sees while trials run: a bar with the time left on a terminal, else one line an epoch."""

import collections
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from job.data.pack import Passport
from job.record import Epoch, Row
from job.trial import Trial

MOST_LINES = 20


def clock(seconds: float) -> str:
    """Seconds as 45s, 3m05s or 2h03m."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Display:
    """Shows one activity after another on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(),
                            TextColumn("{task.fields[note]}"), console=console, transient=True)
        self.task = self.bar.add_task("", total=None, visible=False, note="")
        self.started = time.monotonic()
        self.resumed_share = 0.0

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def say(self, text: str) -> None:
        """One line, kept on the screen."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start an activity of `total` parts, `done` of which were done before."""
        self.started, self.resumed_share = time.monotonic(), done / total if total else 0.0
        self.bar.reset(self.task, description=what, total=total, completed=done, visible=True, note="")

    def advance_to(self, done: int) -> None:
        """So many parts are done."""
        self.bar.update(self.task, completed=done)

    def end(self) -> None:
        """The activity is over; its bar goes away."""
        self.bar.update(self.task, visible=False)

    def seconds_left(self, share: float) -> float:
        """Estimated from the share of the activity done since it began here."""
        new = share - self.resumed_share
        return (1 - share) * (time.monotonic() - self.started) / new if new > 0 else 0.0

    def packing(self, done: int, total: int) -> None:
        """So many images are decoded; the first call says 0."""
        if done == 0:
            self.begin("preparing", total)
        self.advance_to(done)
        if done == total:
            self.end()

    def passport(self, passport: Passport) -> None:
        """What the pack is made of, and what a person should know of it."""
        splits = ", ".join(f"{split} {sum(counts.values())}" for split, counts in passport.counts.items())
        shares = collections.Counter[str]()
        for counts in passport.counts.values():
            shares.update(counts)
        classes = ", ".join(f"{name} {shares[name]}" for name in passport.classes)
        self.say(f"pack {passport.pack_hash[:12]}: {passport.num_images} images ({splits}; {classes})")
        some = [f"rejected {item['image']}: {item['reason']}" for item in passport.rejected]
        some += [f"byte-identical: {', '.join(names)}" for names in passport.duplicates]
        some += [f"left out of training, for it lies in another split too: {name}" for name in passport.left_out]
        for text in some[:MOST_LINES]:
            self.say(f"  {text}")
        if len(some) > MOST_LINES:
            self.say(f"  ... and {len(some) - MOST_LINES} more in pack/passport.json")
        for text in passport.warnings:
            self.say(f"  warning: {text}")

    def epoch(self, trial: Trial, epoch: Epoch) -> None:
        """An epoch's figures: beside the bar, or on a line of their own."""
        if self.console.is_terminal:
            note = f"loss {epoch.train_loss:.3f} val {epoch.val_loss:.3f}  acc {epoch.train_acc:.3f} val {epoch.val_acc:.3f}"
            following = min(epoch.epoch + 1, trial.epochs)
            self.bar.update(self.task, note=note, description=f"trial {trial.trial} epoch {following}/{trial.epochs}")
        else:
            figures = (f"loss {epoch.train_loss:.4f}, val {epoch.val_loss:.4f}  accuracy {epoch.train_acc:.3f}, "
                       f"val {epoch.val_acc:.3f}  {epoch.images_per_second or 0:.0f} images/s")
            left = clock(self.seconds_left(epoch.epoch / trial.epochs))
            self.say(f"trial {trial.trial}  epoch {epoch.epoch}/{trial.epochs}  {figures}  {left} left")

    def row(self, row: Row, already: bool) -> None:
        """A trial's outcome."""
        settings = f"lr {row.settings.get('lr'):g}, {row.settings.get('epochs')} epochs"
        if row.status == "failed":
            self.say(f"trial {row.trial}  FAILED ({settings}): {row.cause}")
            return
        best = f"best val accuracy {row.best_val_acc:.3f} at epoch {row.best_epoch}" if row.best_val_acc is not None else ""
        test = f", test accuracy {row.test_acc:.3f}" if row.test_acc is not None else ""
        self.say(f"trial {row.trial}  {'already ' if already else ''}{row.status} ({settings}): {best}{test}"
                 f"  in {clock(row.seconds or 0)}{'; ' + row.cause if row.cause else ''}")
