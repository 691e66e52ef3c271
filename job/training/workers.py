"""The trials of a sweep, trained by several processes of this machine: one per GPU, or as many as asked for.

Workers share a sweep as machines do, by the leases in its folder; if one dies, the others take over its trials.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from job.data.cores import num_cores
from job.data.pack import Passport
from job.errors import JobError, Stopped, TryAgain
from job.folder.layout import read_row
from job.folder.storage import Folder, open_folder
from job.record import Row
from job.training.display import Display, Position, open_display
from job.training.mps import shared_gpus
from job.training.options import SweepOptions
from job.trial import Trial

POLL_SECONDS = 0.2


def gpus() -> list[str]:
    """Return the CUDA_VISIBLE_DEVICES name of each GPU of this process; none if TRIALGRID_DEVICE is cpu."""
    import torch

    if os.environ.get("TRIALGRID_DEVICE") == "cpu":
        return []
    num_gpus, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible.startswith("MIG-"):
        # Of several MIG instances, CUDA shows a process only the first.
        return visible.split(",")
    if visible:
        return visible.split(",")[:num_gpus]
    return mig_instances() or [str(number) for number in range(num_gpus)]


def mig_instances() -> list[str]:
    """Return the names of the MIG instances that this process may use, as nvidia-smi lists them."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        return re.findall(r"\(UUID: (MIG-[^)\s]+)\)", listed)
    return []


def run_workers(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, options: SweepOptions,
                num_workers: int) -> dict[str, JobError]:
    """Run a sweep in `num_workers` processes, 0 meaning one per GPU; return the failures, by trial.

    It starts no more workers than there are trials or trajectories left; a single one runs in this process. Each worker
    has one GPU if there are several GPUs; otherwise the workers share the GPU or the cores.
    """
    from job.training.budget import say_untrained
    from job.training.rows import failed_rows
    from job.training.sweep import groups_of, show_left, stop_signals, train_left

    devices = gpus()
    left = show_left(sweep, trials, passport, display, options)
    groups = groups_of(left, options)
    num_workers = min(num_workers or len(devices), len(groups))
    # Read before any worker starts: a late worker would take a failure of this run for one of an earlier run.
    failed_before = failed_rows(sweep, left)
    if num_workers <= 1:
        failures = train_left(sweep, left, passport, display, options, failed_before)
        say_untrained(sweep, left, display, options)
        return failures
    # The longest first, so that the sweep does not end with one long trial on one worker.
    groups.sort(key=lambda group: -group[-1].epochs)
    position = replace(display.position, num_workers=num_workers)
    display.say(f"{num_workers} workers on {len(devices) or num_cores()} {'GPUs' if devices else 'cores'}")
    with stop_signals() as stop, shared_gpus(num_workers, len(devices), display.say) as variables:
        workers = []
        for number in range(num_workers):
            order = [trial for group in [*groups[number:], *groups[:number]] for trial in group]
            environment = environment_of(number, num_workers, devices) | variables
            workers.append(Worker(environment, sweep.uri, order, passport, position, options, failed_before))
        wait_for(workers, stop)
    say_untrained(sweep, left, display, options)
    return failures_of(workers, sweep, left)


def environment_of(number: int, num_workers: int, devices: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of one worker: its share of the cores, its GPU, and its share of that."""
    found = {"OMP_NUM_THREADS": str(max(1, num_cores() // num_workers))}
    if devices:
        on_this_one = len(range(number % len(devices), num_workers, len(devices)))
        found["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        found["TRIALGRID_GPU_SHARE"] = f"{1 / on_this_one:.4g}"
    return found


def wait_for(workers: Sequence["Worker"], stop: threading.Event) -> None:
    """Wait until every worker has ended; pass a stop signal on to all of them, and then raise Stopped."""
    from job.training.sweep import STOPPED

    passed_on = False
    # sum() asks every worker, where any() would ask only up to the first that runs.
    while sum(worker.is_running() for worker in workers):
        time.sleep(POLL_SECONDS)
        if stop.is_set() and not passed_on:
            passed_on = True
            for worker in workers:
                worker.process.terminate()
    if stop.is_set():
        raise Stopped(STOPPED)


def failures_of(workers: Sequence["Worker"], sweep: Folder, trials: Sequence[Trial]) -> dict[str, JobError]:
    """Return the failures of all workers, by trial; raise what ended a worker, or TryAgain if one was killed."""
    for worker in workers:
        if isinstance(worker.outcome, JobError):
            raise worker.outcome
    was_killed = any(worker.outcome is None for worker in workers)
    if was_killed and (without_row := [trial.trial for trial in trials if not read_row(sweep, trial.trial)]):
        raise TryAgain(f"trial {without_row[0]} has no row: its worker was killed, most often because memory ran out; "
                       "the same command resumes it")
    failures = [item for worker in workers if isinstance(worker.outcome, dict) for item in worker.outcome.items()]
    # Every worker reports a failure. The one where it happened knows its type, so that one comes last and wins.
    return dict(sorted(failures, key=lambda item: type(item[1]) is not JobError))


class Worker:
    """A process that trains the trials of a sweep, with its own environment variables."""

    def __init__(self, environment: dict[str, str], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=run_worker, args=(sender, environment, *arguments))
        self.process.start()
        sender.close()
        # The failures of its trials, or the error that ended it; None while it runs, and if it was killed.
        self.outcome: dict[str, JobError] | JobError | None = None

    def is_running(self) -> bool:
        """Return whether the process runs; receive its outcome, because it cannot end while the pipe is full."""
        alive = self.process.is_alive()
        if self.outcome is None and self.pipe.poll():
            # A killed worker sends nothing, or a part.
            with contextlib.suppress(EOFError, OSError):
                self.outcome = self.pipe.recv()
        return alive


def run_worker(sender: Connection, environment: dict[str, str], uri: str, trials: Sequence[Trial], passport: Passport,
               position: Position, options: SweepOptions, failed_before: Mapping[str, Row]) -> None:
    """Train trials in this process; send their failures, or the error that ended it."""
    os.environ.update(environment)
    # Ctrl-C signals the whole process group; only the main process shall get it, and it stops the workers.
    os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent

    def stop_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    # Imported here, because torch reads its environment variables when it is imported.
    from job.training.sweep import train_left

    with open_display(in_worker=True) as display:
        display.position = position
        try:
            sender.send(train_left(open_folder(uri), trials, passport, display, options, failed_before))
        except JobError as error:
            # If the main process was killed, nobody reads it.
            with contextlib.suppress(BrokenPipeError):
                sender.send(type(error)(str(error)))
            sys.exit(error.exit_code)
