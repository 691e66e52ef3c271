"""What a row records besides its figures: host, container image, program, versions, time."""

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from job.data.pack import Passport
from job.folder.attempts import host_name, now


def circumstances(passport: Passport) -> dict[str, Any]:
    """Return the Row's fields about pack, program and host."""
    versions = {"trialgrid": version_of("trialgrid"), "python": platform.python_version(),
                "torch": version_of("torch"), "torchvision": version_of("torchvision")}
    return {"classes": passport.classes, "pack_hash": passport.pack_hash, "host": host_name(),
            "git_commit": git_commit(), "image": os.environ.get("IMAGE", ""), "finished_at": now(),
            "versions": versions}


def version_of(package: str) -> str:
    """Return a package's own version, or the installed one while it is not imported: that may be what kills trials.

    A checkout that runs without being installed has none: its commit tells more.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        return str(getattr(sys.modules.get(package), "__version__", None) or metadata.version(package))
    return "not installed"


def git_commit() -> str:
    """Return the program's commit: GIT_COMMIT if a container image sets it, else the checkout's, else ''."""
    if from_environment := os.environ.get("GIT_COMMIT"):
        return from_environment
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    return ""
