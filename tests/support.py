"""What tests import: the command line in a subprocess, small drawn images, rows written by hand, a bucket."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from job.folder.layout import read_row, trial_file
from job.folder.storage import Folder
from job.record import CLOCKS_AND_HOST, Epoch, Row, epochs_to_csv, row_to_json, summarise
from job.trial import Trial
from warm import WarmProcess

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TRIALGRID_SHARED", ROOT.parent / "shared"))
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}

WARM = WarmProcess()

MOST_SECONDS = 500
# Settings of `job grid` under which painted images (`tint`) are learned in a second.
EASY = ("--model", "mlp", "--hidden", 8, "--batch-norm", "yes", "--weights", "none", "--image-size", 16, "--crop", 0,
        "--optimizer", "adam", "--lr", 0.01, "--batch-size", 8)

Grid = Callable[..., Path]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """A clean environment: no AWS setting but the given ones, and no way to fetch ImageNet weights by accident."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "COLUMNS": "160", **extra}


def job(*args: object, **env: str) -> Outcome:
    """Run `job` with these arguments and extra environment variables, in a process of its own; see warm.py."""
    own, words = environment(**env), [*map(str, args)]
    return Outcome(*WARM.run(words, own, MOST_SECONDS)) if WARM.suits(own, ROOT) else cold_job(*words, **env)


def cold_job(*args: object, **env: str) -> Outcome:
    """Run `job` as `job` does, in a process that Python starts anew."""
    done = subprocess.run([sys.executable, "-m", "job", *map(str, args)], capture_output=True, text=True,
                          env=environment(**env), cwd=ROOT, timeout=MOST_SECONDS, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def start_job(*args: object, **env: str) -> subprocess.Popen[str]:
    """Start `job` and leave it running; its standard output is a pipe."""
    return subprocess.Popen([sys.executable, "-m", "job", *map(str, args)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=environment(**env), cwd=ROOT)


def on_terminal(columns: int, *args: object, **env: str) -> str:
    """Run `job` on a terminal of this many columns; return what is on it, with its escape sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    own = environment(TERM="xterm-256color", **env)
    own.pop("COLUMNS")
    process = subprocess.Popen([sys.executable, "-m", "job", *map(str, args)], stdin=theirs, stdout=theirs,
                               stderr=theirs, env=own, cwd=ROOT)
    os.close(theirs)
    found = b""
    # Reading a terminal that nobody writes to any more is an error.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            found += part
    os.close(ours)
    process.wait()
    return found.decode()


def plain(text: str) -> str:
    """Return a terminal's text without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Read a started command's output until a line holds `part`."""
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if part in line:
            return
    pytest.fail(f"{part!r} was never printed:\n{''.join(seen)}")


def row(sweep: Path, trial: str | int) -> dict[str, Any]:
    """Return a trial's row as it lies on disk."""
    return dict(json.loads((sweep / "trials" / str(trial) / "row.json").read_text()))


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what depends on the clock or the host."""
    return {key: value for key, value in found.items() if key not in CLOCKS_AND_HOST}


def make_epochs(count: int, level: float) -> list[Epoch]:
    """Return epochs whose errors fall from `level` with the epoch's number."""
    return [Epoch(epoch=n, train_loss=level / n, train_acc=1 - level / 2 / n, val_loss=1.1 * level / n,
                  val_acc=1 - level / n / 1.5, lr=0.1, images_per_second=90.0, train_seconds=2.0, val_seconds=0.5)
            for n in range(1, count + 1)]


def leave_row(sweep: Folder, trial: Trial, epochs: list[Epoch], pack: str = "p", **more: Any) -> Row:
    """Write the row and the epochs of a trial that nobody trained."""
    best = max(epochs, key=lambda epoch: epoch.val_acc) if epochs else None
    facts = {"settings": asdict(trial), "status": "done", "pack_hash": pack, "classes": ["no", "yes"],
             **summarise(epochs, best), **more}
    found = Row(**facts)
    sweep.write(trial_file(trial.trial, "epochs.csv"), epochs_to_csv(epochs).encode())
    sweep.write(trial_file(trial.trial, "row.json"), row_to_json(found).encode())
    return found


def leave_predictions(sweep: Folder, trial: str, wrong: Iterable[int] = (), count: int = 100,
                      wrong_on_test: Iterable[int] = (), num_test: int = 0, fold: str = "") -> None:
    """Write a trial's predictions: every other image shows `yes`, the rest `no`; which are wrong is given by number.

    A row that has counts of images gets these counts. fold: what the names of its validation images begin with.
    """
    lines = ["split,image,label,predicted,correct,p_no,p_yes"]
    for split, begin, number, missed in (("val", f"{fold}val", count, set(wrong)),
                                         ("test", "test", num_test, set(wrong_on_test))):
        for i in range(number):
            label, other = ("no", "yes") if i % 2 == 0 else ("yes", "no")
            predicted, sure = other if i in missed else label, round(0.6 + 0.3 * i / number, 6)
            shares = f"{sure},{round(1 - sure, 6)}" if predicted == "no" else f"{round(1 - sure, 6)},{sure}"
            lines.append(f"{split},{begin}{i}.jpg,{label},{predicted},{i not in missed},{shares}")
    sweep.write(trial_file(trial, "predictions.csv"), ("\n".join(lines) + "\n").encode())
    if (found := read_row(sweep, trial)) and found.num_val:
        found = replace(found, num_val=count, num_test=num_test)
        sweep.write(trial_file(trial, "row.json"), row_to_json(found).encode())


def draw(path: Path, label: str, number: int, size: tuple[int, int] = (60, 48)) -> None:
    """Draw a disc, a bar or a ring on a noisy ground: easy to learn, different every time."""
    rng = random.Random(f"{label}/{number}")
    image = Image.effect_noise(size, 60).convert("RGB")
    pen = ImageDraw.Draw(image)
    x, y, r = rng.randint(15, size[0] - 15), rng.randint(15, size[1] - 15), rng.randint(9, 14)
    colour = (rng.randint(150, 255), rng.randint(0, 90), rng.randint(0, 90))
    if label == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif label == "bar":
        pen.rectangle((x - r, y - 4, x + r, y + 4), fill=colour)
    else:
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


def tint(path: Path, label: str, number: int) -> None:
    """Paint noise in a colour, which an mlp learns in a second: `warm` or `cold`; always the same image."""
    rng = random.Random(f"{label}/{number}")
    ground = Image.frombytes("L", (48, 48), rng.randbytes(48 * 48)).convert("RGB")
    colour = (rng.randint(150, 255), 90, rng.randint(0, 120)) if label == "warm" else (
        rng.randint(0, 120), 90, rng.randint(150, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(ground, Image.new("RGB", (48, 48), colour), 0.7).save(path, quality=92)


def shared(*parts: str) -> Path:
    """Return a folder of real images or figures; where it is absent the test is skipped and says so."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not beside the project (TRIALGRID_SHARED names its folder)")
    return path


@dataclass(frozen=True)
class S3:
    """A bucket on a real server; `env` reaches it."""

    bucket: str
    env: dict[str, str]

    def client(self) -> Any:
        """Return a boto3 client of the server."""
        import boto3

        return boto3.client("s3", endpoint_url=self.env["AWS_ENDPOINT_URL"], region_name="us-east-1",
                            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
                            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"])

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files to the bucket; return the URI of the copy."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder)}"
                client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())
        return f"s3://{self.bucket}/{prefix}"
