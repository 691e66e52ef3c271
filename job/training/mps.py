"""NVIDIA's Multi-Process Service, by which kernels of several workers run on one GPU at the same time.

Without it a GPU does the work of one process after the other, and a step of few images fills a small part of it.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

CONTROL = "nvidia-cuda-mps-control"
ANSWER_SECONDS = 20


@contextlib.contextmanager
def shared_gpus(num_workers: int, num_gpus: int, say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Run the service for workers that share a GPU; yield the environment variables by which they find it.

    It is not started, and nothing is yielded, if no GPU is shared, if it runs already (CUDA_MPS_PIPE_DIRECTORY is set),
    if the driver's program is not there, if TRIALGRID_MPS is 0, or if it does not answer: `say` gets the reason.
    """
    if not 0 < num_gpus < num_workers or os.environ.get("TRIALGRID_MPS") == "0" \
            or "CUDA_MPS_PIPE_DIRECTORY" in os.environ or not shutil.which(CONTROL):
        yield {}
        return
    # The path of a pipe may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mps-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        if reason := ask(variables, "", "-d") or ask(variables, "get_default_active_thread_percentage\n"):
            ask(variables, "quit\n")
            say(f"workers share a GPU without MPS, which does not start here ({reason})")
            yield {}
            return
        try:
            yield variables
        finally:
            ask(variables, "quit\n")


def ask(variables: dict[str, str], command: str, *options: str) -> str:
    """Run the control program with a command; return why it failed, or ''."""
    try:
        done = subprocess.run([CONTROL, *options], input=command, text=True, capture_output=True, check=False,
                              env={**os.environ, **variables}, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{CONTROL}: {type(error).__name__}"
    if done.returncode:
        text = " ".join((done.stderr or done.stdout).split())
        return f"{CONTROL} ended with {done.returncode}{': ' if text else ''}{text[:200]}"
    return ""
