"""Sweeps that are killed, stopped, frozen and shared while storage fails; when they are done, nothing differs."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from proxy import Fault, Proxy, What, proxy_to
from rounds import Round, Running, read_sweep, session_of

MOST_STARTS, MOST_TRIES = 6, 8
LONG_FREEZE_SECONDS = 75
PARTS = ("", "", "row.json", "epochs", "attempts/", "passport.json", "safetensors", "last.pt", "grid.csv", "list-type",
         "events/", "predictions.csv", "summary")


def on_disk(round_: Round) -> None:
    """Kills, stops and freezes of a sweep on disk."""
    sweep = round_.folder / "sweep"
    storm(round_, lambda: sweep_command(round_, str(sweep)), [strike])
    files = read_sweep(sweep)
    left = [key for key in files if ".writing-" in key]
    assert not left, f"temporary files are left: {left}"
    round_.check_undisturbed(files)


def in_s3(round_: Round) -> None:
    """The same of a sweep in S3."""
    behind_proxy(round_, [strike], faults=False)


def faulty_storage(round_: Round) -> None:
    """A sweep whose storage fails in all ways that the proxy knows."""
    behind_proxy(round_, [], faults=True)


def faulty_storage_and_kills(round_: Round) -> None:
    """Both at once."""
    behind_proxy(round_, [strike], faults=True)


def behind_proxy(round_: Round, blows: list["Blow"], faults: bool) -> None:
    """Run a storm on a sweep in S3 through a proxy; count what the proxy did."""
    s3, uri = round_.ground.s3, f"s3://{round_.ground.s3.bucket}/sweep-{round_.seed}"
    with proxy_to(s3.env["AWS_ENDPOINT_URL"]) as proxy:
        patience = round_.chance.choice(["3", "20", "60"])
        env = {**s3.env, "AWS_ENDPOINT_URL": proxy.endpoint, "TRIALGRID_PATIENCE": patience}
        more = [lambda round_, running: add_faults(round_, proxy)] if faults else []
        try:
            storm(round_, lambda: sweep_command(round_, uri, **env), [*blows, *more], proxy)
            proxy.settle()
            round_.check_undisturbed(read_sweep(uri, s3))
        except AssertionError:
            keep(read_sweep(uri, s3), round_.folder / "sweep")
            raise
        finally:
            round_.tally.update(f"faults: {line.split()[0]}" for line in proxy.log)
            (round_.folder / "proxy.log").write_text("\n".join(proxy.log))


def keep(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a sweep in S3 to disk, because its server ends with the campaign."""
    for key, data in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)


def sweep_command(round_: Round, sweep: str, **env: str) -> Running:
    """Start the sweep, sometimes with two workers."""
    workers = ("--workers", 2) if round_.chance.random() < 0.3 else ()
    ground = round_.ground
    return round_.start("sweep", "--images", ground.images, "--grid", ground.grid, "--short-side", 48, *workers,
                        *ground.options, sweep, **env)


Blow = Callable[[Round, list[Running]], None]


def storm(round_: Round, start: Callable[[], Running], blows: list[Blow], proxy: Proxy | None = None) -> None:
    """Start the sweep, alone or twice at once, amid blows, until it is done or often enough; then run it in peace."""
    chance = round_.chance
    for _ in range(MOST_STARTS):
        if proxy and strike not in blows:
            chance.choice(blows)(round_, [])
        running = [start() for _ in range(chance.choice([1, 1, 2]))]
        for _ in range(3):
            wait_a_while(round_, running)
            if any(one.is_alive() for one in running):
                chance.choice(blows)(round_, running)
        if 0 in [round_.end(one, codes_after(one, proxy)) for one in running]:
            break
    if proxy:
        proxy.faults.clear()
        round_.note("no more faults")
    for _ in range(MOST_TRIES):
        if round_.end(start(), {0, 75}) == 0:
            break
    else:
        raise AssertionError(f"the sweep is not done after {MOST_TRIES} undisturbed tries")
    round_.check_nobody_is_left()


def codes_after(running: Running, proxy: Proxy | None) -> set[int]:
    """Return the exit codes that what has happened to a command may lead to."""
    codes = {0, 75}
    if proxy:
        codes |= {77}
    if signal.SIGKILL in running.signals:
        # 70: a trial whose process has died three times.
        codes |= {-signal.SIGKILL, 70}
    if signal.SIGTERM in running.signals:
        # The second: before Python has begun.
        codes |= {143, -signal.SIGTERM}
    return codes


def wait_a_while(round_: Round, running: list[Running]) -> None:
    """Wait for a random moment of the sweep, or of its training; no longer than the commands live."""
    chance, seconds = round_.chance, round_.ground.seconds
    in_training, least, share = chance.random() < 0.5, time.monotonic(), chance.random()
    last = least + 3 * seconds
    while in_training and time.monotonic() < last and not any("epoch 1/" in one.out for one in running):
        if not any(one.is_alive() for one in running):
            return
        time.sleep(0.02)
    until = time.monotonic() + share * seconds / (4 if in_training else 1.5)
    while time.monotonic() < until and any(one.is_alive() for one in running):
        time.sleep(0.02)


def strike(round_: Round, running: list[Running]) -> None:
    """Kill, stop or freeze one of the commands: itself, one of the processes that it has started, or all of them."""
    chance = round_.chance
    what = chance.choice(["kill", "kill", "kill", "term", "freeze"])
    target = chance.choice(["itself", "itself", "all", "child"])
    long = chance.random() < 0.25 and len(running) > 1
    one, pick, seconds = chance.choice(running), chance.random(), chance.choice([0.3, 1, 4])
    processes = session_of(one.process.pid)
    if not one.is_alive() or not processes:
        return
    children = [pid for pid in processes if pid != one.process.pid and is_worker(pid)]
    if target == "itself" or not children:
        processes, target = [one.process.pid], "itself"
    elif target == "child":
        processes = [children[int(pick * len(children))]]
    round_.note(f"{one.path.name}: {what} {target}")
    round_.tally[f"{what}s"] += 1
    if what != "freeze":
        send(one, processes, signal.SIGKILL if what == "kill" else signal.SIGTERM)
        return
    until = time.monotonic() + (LONG_FREEZE_SECONDS if long else seconds)
    round_.tally["freezes of over a minute"] += long
    send(one, processes, signal.SIGSTOP)
    while time.monotonic() < until and (not long or any(other.is_alive() for other in running if other is not one)):
        time.sleep(0.1)
    send(one, processes, signal.SIGCONT)


def is_worker(pid: int) -> bool:
    """Whether it is a process that trains or decodes; Python's own helpers are none."""
    try:
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def send(one: Running, processes: list[int], what: signal.Signals) -> None:
    """Send a signal to processes of a command that may have ended meanwhile."""
    one.signals.add(what)
    for pid in processes:
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            continue


def add_faults(round_: Round, proxy: Proxy) -> None:
    """Let the next requests of a few kinds fail."""
    found = [draw_fault(round_.chance) for _ in range(round_.chance.randint(4, 14))]
    round_.note("faults: " + "; ".join(f"{fault.what} {fault.method} {fault.part!r} {fault.code} times {fault.times} "
                                       f"skip {fault.skip} seconds {fault.seconds}" for fault in found))
    proxy.faults.extend(found)


def draw_fault(chance: random.Random) -> Fault:
    """Return a fault that suits its method.

    An answer is not spoilt in the same way twice: an object that reads so is taken for one that is damaged itself.
    """
    what: What = chance.choice(get_args(What))
    methods = {"late": ["PUT", "PUT", "DELETE"], "spoil": ["PUT"]}
    methods |= {kind: ["GET"] for kind in ("stale", "short", "cut", "corrupt")}
    times = {"status": 9999, "short": 1, "corrupt": 1}.get(what, chance.randint(1, 4))
    longest = {"delay": 3, "late": 15, "status": 12}.get(what, 0)
    return Fault(what, chance.choice(methods.get(what, ["", "GET", "PUT"])), chance.choice(PARTS),
                 times, chance.choice([0, 0, 1, 3, 9]), round(chance.uniform(0.1, 1) * longest, 1),
                 chance.choice([403, 500, 503]), chance.random())
