"""The command line: parse, one call, an exit code. Torch and everything heavy is imported inside the commands."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli import cluster, export, images, results, train
from job.cli.options import say
from job.data.cores import share_processor
from job.errors import JobError, OutOfMemory, TryAgain
from job.folder.local import local_errors

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]})
for part in (images, train, results, export, cluster):
    app.add_typer(part.app)


def print_version(wanted: bool) -> None:
    """Print the version and exit, if `wanted`."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trialgrid {version('trialgrid')}")
        raise typer.Exit


@app.callback()
def options_before_the_command(version: Annotated[bool, typer.Option(
        "--version", help="Print the version and exit.", is_eager=True, callback=print_version)] = False) -> None:
    """Find the best classifier for labelled images.

    All state lies in one SWEEP folder: a path or an s3:// URI.
    """


def die(number: int, frame: Any) -> None:
    """Exit at a signal, with the code for it: process 1 of a container has no default handler."""
    sys.exit(128 + number)


def interrupted(number: int, frame: Any) -> None:
    """Exit at Ctrl-C as at SIGTERM: it stops a command on purpose, and nothing is lost."""
    os.write(2, b"job: stopped by Ctrl-C; run the same command again to continue\n")
    die(signal.SIGTERM, frame)


def main() -> None:
    """Run the command line; the exit code says whether to try again."""
    signal.signal(signal.SIGTERM, die)
    signal.signal(signal.SIGINT, interrupted)
    share_processor()
    try:
        app()
    except JobError as error:
        say(f"job: {error}", to_stderr=True)
        sys.exit(error.exit_code)
    except MemoryError:
        say("job: memory ran out; end what else takes memory, or use a machine with more", to_stderr=True)
        sys.exit(OutOfMemory.exit_code)
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:
        failure = named(error)
        say(f"job: {failure}", to_stderr=True)
        # Not sys.exit, which would flush standard output once more.
        os._exit(failure.exit_code)


def named(error: OSError) -> JobError:
    """Return an error that no code of ours has caught, with its file; one of writing without a file is stdout's."""
    if isinstance(error.filename, str | bytes):
        try:
            with local_errors(Path(os.fsdecode(error.filename))):
                raise error
        except JobError as found:
            return found
    is_writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
    return TryAgain(f"{'standard output' if is_writing else 'the system'}: {error.strerror or error}")


if __name__ == "__main__":
    main()
