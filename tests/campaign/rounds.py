"""A round of the campaign: the commands that it starts, what it has done, and how their results are compared."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.errors import JobError
from support import ROOT, S3, environment, timeless

# 2 is documented too, but the campaign makes no wrong usage.
KINDS_OF_ERRORS: list[type[JobError]] = [JobError, *JobError.__subclasses__()]
DOCUMENTED = {0} | {kind.exit_code for kind in KINDS_OF_ERRORS}
LONGEST_SECONDS = 500
NUM_COLUMNS_WITHOUT_CLOCKS = 6

Facts = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Ground:
    """What all rounds share: images, grid, an undisturbed sweep, how long it took, the S3 server, more options."""

    images: Path
    grid: Path
    sweep: Path
    facts: Facts
    seconds: float
    s3: S3
    options: tuple[str, ...] = ()


@dataclass
class Running:
    """A command that was started, with the signals that it has been sent."""

    process: subprocess.Popen[bytes]
    path: Path
    signals: set[signal.Signals] = field(default_factory=set)

    @property
    def out(self) -> str:
        return self.path.with_suffix(".out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.path.with_suffix(".err").read_text(errors="replace")

    def is_alive(self) -> bool:
        return self.process.poll() is None


@dataclass
class Round:
    """One round: all that it draws comes from `chance`, and what it does is in `done`."""

    seed: int
    folder: Path
    ground: Ground
    tally: Counter[str]
    chance: random.Random
    started: list[Running] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    codes: set[int] = field(default_factory=set)

    def check_undisturbed(self, files: dict[str, bytes]) -> None:
        """Every trial has its row, and all is what it is in the undisturbed sweep.

        In a race, a trial that has died three times is missing where others are compared: then only rows are expected.
        """
        found, expected = facts_of(files), self.ground.facts
        if self.ground.options and JobError.exit_code in self.codes:
            assert all("row.json" in found.get(trial, {}) for trial in expected), "a trial has lost its row"
        else:
            check_equal(found, expected)

    def note(self, what: str) -> None:
        """Remember what was done, and when."""
        self.done.append(f"{time.monotonic() - self.began:6.1f} s  {what}")

    def start(self, *args: object, **env: str) -> Running:
        """Start `job` in a session of its own; its output goes to files of the round's folder."""
        path = self.folder / f"command-{len(self.started) + 1:02d}"
        with path.with_suffix(".out").open("wb") as out, path.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen([sys.executable, "-m", "job", *map(str, args)], stdout=out, stderr=err, cwd=ROOT,
                                       env=environment(**env, GIT_COMMIT="campaign"),
                                       start_new_session=True)
        self.started.append(Running(process, path))
        self.tally["commands"] += 1
        self.note(f"{path.name}: job {' '.join(map(str, args))}")
        return self.started[-1]

    def end(self, running: Running, allowed: set[int]) -> int:
        """Wait for a command; check its exit code and that it shows no traceback; return the code."""
        try:
            code = running.process.wait(LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{running.path.name} does not end within {LONGEST_SECONDS} s") from None
        self.note(f"{running.path.name}: exit code {code}")
        self.codes.add(code)
        assert code in allowed, f"{running.path.name} ends with {code}, not one of {sorted(allowed)}:\n{running.err}"
        assert "Traceback" not in running.err, f"{running.path.name} shows a traceback:\n{running.err}"
        return code

    def run(self, allowed: set[int], *args: object, **env: str) -> Running:
        """Run a command to its end and check it."""
        running = self.start(*args, **env)
        self.end(running, allowed)
        return running

    def clean_up(self) -> None:
        """End what the round has started and still runs."""
        for running in self.started:
            for pid in session_of(running.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            running.process.wait()

    def check_nobody_is_left(self) -> None:
        """No process outlives its command for long."""
        deadline = time.monotonic() + 20
        while left := [pid for running in self.started for pid in session_of(running.process.pid)]:
            assert time.monotonic() < deadline, f"processes outlive their command: {left}"
            time.sleep(0.2)


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that are no zombies; the leader first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def read_sweep(sweep: str | Path, s3: S3 | None = None) -> dict[str, bytes]:
    """Return all files of a sweep without the events, by their keys in the sweep."""
    if not s3:
        root = Path(sweep)
        paths = [path for path in root.rglob("*") if path.is_file()]
        found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    else:
        client, prefix = s3.client(), f"{str(sweep).split('/', 3)[3]}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        found = {key.removeprefix(prefix): client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() for key in keys}
    return {key: data for key, data in found.items() if "/events/" not in key}


def facts_of(files: dict[str, bytes]) -> Facts:
    """Return what must not depend on what happened meanwhile: rows, weights, predictions and epochs, by trial."""
    facts: Facts = {}
    for key, data in files.items():
        _, _, rest = key.partition("trials/")
        trial, _, name = rest.partition("/")
        value: Any = None
        if name == "row.json":
            value = timeless(json.loads(data))
        elif name in ("best.safetensors", "predictions.csv"):
            value = hashlib.sha256(data).hexdigest()
        elif name.startswith("epochs-"):
            value = [line.split(",")[:NUM_COLUMNS_WITHOUT_CLOCKS] for line in data.decode().splitlines()]
        if value is not None:
            facts.setdefault(trial, {})[name] = value
    return facts


def check_equal(found: Facts, expected: Facts) -> None:
    """Every trial has its row, and all is what it is in the undisturbed sweep."""
    for trial, facts in expected.items():
        have = found.get(trial, {})
        lost = sorted(facts.keys() - have.keys())
        assert not lost, f"trial {trial} has lost {', '.join(lost)}"
        unequal = [name for name in facts if have[name] != facts[name]]
        shown = "\n".join(f"{name}: {have[name]}\nundisturbed: {facts[name]}" for name in unequal)
        assert not unequal, f"trial {trial} differs in {', '.join(unequal)}:\n{shown}"
