"""TensorBoard for a sweep folder: mirror its event files to the local disk as they appear, and serve them."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job.errors import BadConfig, JobError
from job.folder.storage import Folder

MIRROR_SECONDS = 5.0
THREADS = 16


def mirror(sweep: Folder, target: Path) -> int:
    """Copy new event files into `target`, one folder per trial, remove deleted ones, and return the number copied.

    An event file never changes under its name, so comparing names is enough. Raises JobError if the storage fails.
    """
    wanted = {}
    for name in sweep.names("trials/"):
        parts = name.split("/")
        if len(parts) == 4 and parts[2] == "events":
            wanted[target / parts[1] / parts[3]] = name
    have = {path for path in target.rglob("*") if path.is_file()}
    for path in have - wanted.keys():
        path.unlink()

    def fetch(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        # At the end of a file TensorBoard moves on to the next, so a file appears only once it is complete.
        half = path.with_name(f".{path.name}")
        sweep.fetch(wanted[path], half)
        half.rename(path)

    with ThreadPoolExecutor(THREADS) as pool:
        return len(list(pool.map(fetch, sorted(wanted.keys() - have))))


def serve(sweep: Folder, host: str, port: int, say: Callable[[str], None]) -> None:
    """Mirror and serve until the process is stopped.

    Raises BadConfig if the port is taken, JobError if the first mirror fails; a later outage is reported through `say`.
    """
    from tensorboard import default, program

    with tempfile.TemporaryDirectory(prefix="trialgrid-board-") as folder:
        target = Path(folder)
        mirror(sweep, target)
        board = program.TensorBoard(default.get_plugins())
        board.configure(["tensorboard", f"--logdir={target}", f"--host={host}", f"--port={port}",
                         f"--reload_interval={MIRROR_SECONDS:g}", "--load_fast=false", f"--window_title={sweep.uri}"])
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise BadConfig(f"--host {host} --port {port}: {error.msg}") from None
        say(f"TensorBoard of {sweep.uri} at {url} (Ctrl-C stops it)")
        said = ""
        while True:
            time.sleep(MIRROR_SECONDS)
            try:
                mirror(sweep, target)
                said = ""
            except JobError as error:
                if str(error) != said:
                    said = str(error)
                    say(f"{said}; trying again every {MIRROR_SECONDS:g} s")
