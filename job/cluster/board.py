"""TensorBoard for a sweep folder: mirror its event files to the local disk as they appear, and serve them."""

import re
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job.errors import BadConfig, JobError
from job.folder.grid import begun_trial, read_grid
from job.folder.layout import GRID, check_sweep
from job.folder.storage import Folder
from job.trial import NAME_PATTERN

# An event file's name: no "..", no separator, and room for the dot that is put in front of a half copied one.
EVENTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MIRROR_SECONDS = 5.0
THREADS = 16


def mirror(sweep: Folder, target: Path, runs: dict[str, str]) -> int:
    """Copy new event files into `target`, one folder per trial, remove deleted ones, and return the number copied.

    An event file never changes under its name, so comparing names is enough. Names that would lead out of `target` are
    passed over. runs: trial -> the name of its run, kept from call to call, because TensorBoard takes a renamed folder
    for a new run. Raises JobError if the storage fails.
    """
    found: dict[str, list[str]] = {}
    for name in sweep.names("trials/"):
        parts = name.split("/")
        if len(parts) == 4 and parts[2] == "events" and NAME_PATTERN.fullmatch(parts[1]) and EVENTS.fullmatch(parts[3]):
            found.setdefault(parts[1], []).append(name)
    name_runs(sweep, [trial for trial in found if trial not in runs], runs)
    wanted = {target / runs[trial] / name.rpartition("/")[2]: name for trial, names in found.items() for name in names}
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


def name_runs(sweep: Folder, new: Sequence[str], runs: dict[str, str]) -> None:
    """Add to `runs` what TensorBoard calls these trials: `8 lr 0.003 epochs 12`, or `8` if nothing tells its settings.

    The name is made of numbers and of a trial's name that matches the pattern, so it is a plain folder name.
    """
    if not new:
        return
    try:
        grid = {trial.trial: trial for trial in read_grid(sweep)} if sweep.exists(GRID) else {}
    except BadConfig:
        # A damaged grid keeps nobody from seeing the curves.
        grid = {}

    def run_name(name: str) -> str:
        trial = grid.get(name) or begun_trial(sweep, name)
        return f"{name} lr {trial.lr:g} epochs {trial.epochs}" if trial else name

    with ThreadPoolExecutor(THREADS) as pool:
        runs.update(zip(new, pool.map(run_name, new), strict=True))


def serve(sweep: Folder, host: str, port: int, say: Callable[[str], None]) -> None:
    """Mirror and serve until the process is stopped.

    Raises BadConfig if host or port cannot be listened on. Whatever keeps the sweep from being read (an outage, a wrong
    key, a sweep that does not exist yet) is reported through `say`, and waited for.
    """
    from tensorboard import default, program

    refuse_address(host, port)
    with tempfile.TemporaryDirectory(prefix="trialgrid-board-") as folder:
        target = Path(folder)
        runs: dict[str, str] = {}
        said = update(sweep, target, runs, say, "")
        board = program.TensorBoard(default.get_plugins())
        board.configure(["tensorboard", f"--logdir={target}", f"--host={host}", f"--port={port}",
                         f"--reload_interval={MIRROR_SECONDS:g}", "--load_fast=false", f"--window_title={sweep.uri}"])
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise BadConfig(f"--host {host} --port {port}: {error.msg}") from None
        say(f"TensorBoard of {sweep.uri} at {url} (Ctrl-C stops it)")
        while True:
            time.sleep(MIRROR_SECONDS)
            said = update(sweep, target, runs, say, said)


def refuse_address(host: str, port: int) -> None:
    """Raise BadConfig if no server can listen here: TensorBoard itself would exit with 1 and half of the reason."""
    # As TensorBoard chooses it.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.getaddrinfo(host or "\0", port, family, socket.SOCK_STREAM)[0][4]
    except (OSError, ValueError):
        raise BadConfig(f"--host {host!r}: no such address; give one of this machine, such as localhost, or 0.0.0.0 "
                        "for all") from None
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
        except OSError as error:
            raise BadConfig(f"--host {host} --port {port}: {error.strerror}; give a free port (0: any), and an address "
                            "of this machine") from None


def update(sweep: Folder, target: Path, runs: dict[str, str], say: Callable[[str], None], said: str) -> str:
    """Mirror once; return what keeps it from working, or '', and `say` it unless it is what was said before."""
    try:
        if not mirror(sweep, target, runs) and not any(target.iterdir()):
            check_sweep(sweep)
    except JobError as error:
        if str(error) != said:
            say(f"{error}; trying again every {MIRROR_SECONDS:g} s")
        return str(error)
    return ""
