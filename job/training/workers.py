"""The trials of a sweep by several processes of this machine: one a GPU, or as many as are asked for.

They share the sweep as several machines would, by the leases in its folder; a worker that dies is replaced by the others.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from job.data.cores import num_cores
from job.data.pack import Passport
from job.errors import JobError, Stopped, TryAgain
from job.folder.layout import read_row
from job.folder.storage import Folder, open_folder
from job.record import Row
from job.training.display import Display
from job.trial import Trial, trajectories

POLL_SECONDS = 0.2


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use; none where TRIALGRID_DEVICE is cpu."""
    import torch

    if os.environ.get("TRIALGRID_DEVICE") == "cpu":
        return []
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named.startswith("MIG-"):
        # A process is shown only the first of several parts of a GPU.
        return named.split(",")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def run_workers(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, independent: bool,
                num_workers: int) -> dict[str, JobError]:
    """`run_sweep` by this many processes, 0 for one a GPU; by this process where one is enough.

    Where there are several GPUs each worker has one, else they share the GPU or the cores.
    """
    from job.training.rows import failed_rows, finished_row
    from job.training.sweep import run_sweep, stop_signals

    devices = gpus()
    rest = [trial for trial in trials if not finished_row(sweep, trial, passport)]
    groups = [[trial] for trial in rest] if independent else trajectories(rest)
    num_workers = min(num_workers or len(devices), len(groups))
    if num_workers <= 1:
        return run_sweep(sweep, trials, passport, display, independent)
    # The longest first, so that none is left alone with it at the end.
    groups.sort(key=lambda group: -group[-1].epochs)
    # Decided here: a worker that starts late would take a failure of this run for one of the last.
    failed_before = failed_rows(sweep, rest)
    display.say(f"{num_workers} workers on {len(devices) or num_cores()} {'GPUs' if devices else 'cores'}")
    with stop_signals() as stop:
        workers = []
        for number in range(num_workers):
            order = [trial for group in [*groups[number:], *groups[:number]] for trial in group]
            own = environment_of(number, num_workers, devices)
            workers.append(Worker(own, sweep.uri, order, passport, independent, failed_before))
        wait_for(workers, stop)
    for worker in workers:
        if isinstance(worker.outcome, JobError):
            raise worker.outcome
    if left := [trial.trial for trial in rest if not read_row(sweep, trial.trial)]:
        raise TryAgain(f"trial {left[0]} has no row: its worker was killed, perhaps for want of memory; the same command goes on")
    failures = [item for worker in workers if isinstance(worker.outcome, dict) for item in worker.outcome.items()]
    # A failure is known to each worker; the one that had it knows its kind, and has the last word.
    return dict(sorted(failures, key=lambda item: type(item[1]) is not JobError))


def environment_of(number: int, num_workers: int, devices: Sequence[str]) -> dict[str, str]:
    """The variables of one worker: its GPU, or its share of the cores."""
    if devices:
        return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}
    return {"OMP_NUM_THREADS": str(max(1, num_cores() // num_workers))}


def wait_for(workers: Sequence["Worker"], stop: threading.Event) -> None:
    """Wait until every worker has ended; passes a stop signal on to them, and then raises Stopped."""
    told = False
    # Each is asked, not only the first that is at work.
    while sum(worker.is_at_work() for worker in workers):
        time.sleep(POLL_SECONDS)
        if stop.is_set() and not told:
            told = True
            for worker in workers:
                worker.process.terminate()
    if stop.is_set():
        raise Stopped("stopped by a signal; what was trained has its rows, and the same command goes on")


class Worker:
    """A process that runs the trials of a sweep, with environment variables of its own."""

    def __init__(self, own: dict[str, str], *what: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(sender, own, *what))
        self.process.start()
        sender.close()
        # Its trials' failures, or the error that ended it; None until then, and where it was killed.
        self.outcome: dict[str, JobError] | JobError | None = None

    def is_at_work(self) -> bool:
        """Whether it goes on; takes what it has sent, because it could not end with more than the pipe holds."""
        alive = self.process.is_alive()
        if self.outcome is None and self.pipe.poll():
            # Where it was killed there is nothing, or half of it.
            with contextlib.suppress(EOFError, OSError):
                self.outcome = self.pipe.recv()
        return alive


def work(sender: Connection, own: dict[str, str], uri: str, trials: Sequence[Trial], passport: Passport, independent: bool,
         failed_before: dict[str, Row]) -> None:
    """One worker; sends its trials' failures, or the error that ended it."""
    os.environ.update(own)
    # A key that stops the program is for its first process, which then tells the workers.
    os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent

    def stop_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    # Torch reads its environment when it is imported.
    from rich.console import Console

    from job.training.sweep import run_sweep

    with Display(Console(force_terminal=False)) as display:
        try:
            sender.send(run_sweep(open_folder(uri), trials, passport, display, independent, failed_before))
        except JobError as error:
            sender.send(type(error)(str(error)))
            sys.exit(error.exit_code)
