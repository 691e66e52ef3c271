"""The command line: parse, one call, an exit code. Torch and everything heavy is imported inside the commands."""

import os
import signal
import sys
from typing import Annotated, Any

import typer

from job.cli import cluster, images, results, train
from job.errors import JobError, Stopped, TryAgain

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
def print_version(wanted: bool) -> None:
    """Print the version and end, where that is wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trialgrid {version('trialgrid')}")
        raise typer.Exit


for part in (train, results, cluster, images):
    app.add_typer(part.app)


@app.callback()
def options_before_the_command(version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True,
                                                                     callback=print_version)] = False) -> None:
    """Find the best learning rate and number of epochs for an image classifier.

    All state lies in one SWEEP folder, a path or an s3:// URI.
    """


def die(number: int, frame: Any) -> None:
    """End at a signal, with the code that says so: as process 1 of a container there is no default handler."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; the exit code says whether trying again can help."""
    signal.signal(signal.SIGTERM, die)
    try:
        app()
    except JobError as error:
        print(f"job: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("job: stopped; the same command goes on from what is there", file=sys.stderr)
        sys.exit(Stopped.exit_code)
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:
        # Of the commands' own files every error is a JobError by now; what is left is standard output.
        print(f"job: standard output: {error.strerror}", file=sys.stderr)
        os._exit(TryAgain.exit_code)


if __name__ == "__main__":
    main()
