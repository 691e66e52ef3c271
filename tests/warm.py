"""A warm process for the tests: it has imported torch and the other large libraries, and forks for each command.

`python -m job` spends seconds of processor time on these imports. Here a command is still a process with its own
environment, pipes and exit code; only the libraries are there already. It imports `job` itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# What commands import. Not onnxruntime, which starts a thread when it is imported: a fork would lack it.
LIBRARIES = (
    "PIL.Image", "PIL.ImageDraw", "PIL.ImageEnhance", "PIL.ImageFile", "PIL.ImageFilter", "PIL.ImageFont",
    "PIL.ImageOps", "boto3", "boto3.s3.inject", "botocore.client", "botocore.session", "jinja2", "numpy", "pandas",
    "rich.console", "rich.live", "rich.progress", "rich.table", "safetensors.numpy", "safetensors.torch",
    "tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer", "torch", "torch.optim",
    "torch.utils.tensorboard.summary", "torchvision", "torchvision.models", "typer", "xlsxwriter", "yaml")
# The variables that no library reads when it is imported; with any other of its own, a command starts cold.
LATE = ("AWS_", "GIT_COMMIT", "IMAGE", "NODE_NAME", "POD_NAME", "PYTEST_", "TMPDIR", "TRIALGRID_")


class WarmProcess:
    """The warm process of this process of tests, which is started by the first command and ends with it."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.line: socket.socket | None = None
        self.is_broken = not hasattr(os, "pidfd_open")
        self.pid = 0

    def suits(self, environment: Mapping[str, str], folder: Path) -> bool:
        """Return whether a command with this environment may run warm; start the warm process if there is none."""
        if not self.line and not self.is_broken:
            self.start(environment, folder)
        changed = {name for name, _ in environment.items() ^ self.environment.items()}
        return not self.is_broken and all(name.startswith(LATE) for name in changed)

    def start(self, environment: Mapping[str, str], folder: Path) -> None:
        """Start the process in a folder; if that fails, warn, and commands start cold."""
        self.environment = {name: value for name, value in environment.items() if not name.startswith(LATE)}
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, cwd=folder, env=self.environment,
                                       pass_fds=[theirs.fileno()])
        self.pid = process.pid
        atexit.register(process.wait)
        atexit.register(self.line.close)
        self.line.settimeout(120)
        self.is_broken = True
        with contextlib.suppress(OSError):
            self.is_broken = self.line.recv(16) != b"ready"
        if self.is_broken:
            warnings.warn("the warm process of the tests does not start: each command starts cold", stacklevel=2)

    def run(self, args: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
        """Run `job`; return its exit code, negative for a signal, and what it wrote; raises TimeoutExpired."""
        assert self.line
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        with ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(read, pipe) for pipe in (out, err)]
            with answer:
                with theirs, os.fdopen(their_out, "wb"), os.fdopen(their_err, "wb"):
                    request = json.dumps([list(args), dict(environment)]).encode()
                    socket.send_fds(self.line, [request], [their_out, their_err, theirs.fileno()])
                answer.settimeout(seconds)
                try:
                    code = answer.recv(16)
                except TimeoutError:
                    raise subprocess.TimeoutExpired(["job", *args], seconds) from None
        assert code, "the warm process of the tests has ended"
        return int(code), texts[0].result(), texts[1].result()


def read(pipe: int) -> str:
    """Return all that is written to a pipe."""
    with open(pipe) as file:
        return file.read()


@dataclass(frozen=True)
class Command:
    """A command that runs; a message to `answer` is its exit code, and its end of file says that nobody waits."""

    pid: int
    ended: int  # a pidfd
    answer: socket.socket

    def forget(self) -> None:
        os.close(self.ended)
        self.answer.close()


class Server:
    """The loop of the warm process."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.running: list[Command] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(line, selectors.EVENT_READ)

    def next_command(self) -> None:
        """Return in the process of each new command; exit where the tests have ended, and the commands with them."""
        while True:
            for key, _ in self.selector.select():
                if isinstance(key.data, Command):
                    self.attend_to(key.data, has_ended=key.fd == key.data.ended)
                    break  # The other events may be of what is now closed.
                message, fds, _, _ = socket.recv_fds(self.line, 1 << 20, 3)
                if not message:
                    for command in self.running:
                        os.killpg(command.pid, signal.SIGKILL)
                    os._exit(0)
                if self.fork(fds):
                    become(*json.loads(message), *fds[:2])
                    return

    def fork(self, fds: Sequence[int]) -> bool:
        """Fork for a command; return whether this is its process."""
        out, err, answer = fds
        if (pid := os.fork()) == 0:
            for other in self.running:
                other.forget()
            self.selector.close()
            self.line.close()
            os.close(answer)
            return True
        os.setpgid(pid, pid)
        os.close(out)
        os.close(err)
        command = Command(pid, os.pidfd_open(pid), socket.socket(fileno=answer))
        self.running.append(command)
        for file in (command.ended, command.answer):
            self.selector.register(file, selectors.EVENT_READ, command)
        return False

    def attend_to(self, command: Command, has_ended: bool) -> None:
        """Send a command's exit code, or kill it because nobody waits any more."""
        if not has_ended:
            os.killpg(command.pid, signal.SIGKILL)
        _, status = os.waitpid(command.pid, 0)
        for file in (command.ended, command.answer):
            self.selector.unregister(file)
        self.running.remove(command)
        with contextlib.suppress(OSError):
            command.answer.send(str(os.waitstatus_to_exitcode(status)).encode())
        command.forget()


def become(args: list[str], environment: dict[str, str], out: int, err: int) -> None:
    """Make this process what `python -m job ARGS` is when it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for given, number in ((out, 1), (err, 2)):
        os.dup2(given, number)
        os.close(given)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = args
    importlib.import_module("numpy").random.seed()
    tempfile.tempdir = None  # It is found out once per process.


def load() -> None:
    """Import the libraries, with the variables set that the command sets before it does."""
    from job.data.cores import share_processor

    share_processor()
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "job"]:
        del sys.modules[name]
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread, which a fork would lack"  # noqa: PTH208
    gc.collect()
    gc.freeze()


def run_command(ending: list[int]) -> None:
    """Run the command, and note its exit code; that of an exception that nobody catches is noted already."""
    try:
        runpy.run_module("job", run_name="__main__", alter_sys=True)
        ending[0] = 0
    except SystemExit as end:
        ending[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def leave(ending: list[int]) -> None:
    """End this process as Python does, but without taking the libraries apart, which takes a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending[0])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, whose end is that of this process.
    sys.path[0] = str(Path.cwd())
    connection, exit_code = socket.socket(fileno=int(sys.argv[1])), [1]
    atexit.register(leave, exit_code)  # What is registered first is called last.
    load()
    connection.send(b"ready")
    Server(connection).next_command()
    run_command(exit_code)
