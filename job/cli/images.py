"""Commands that draw images or print a grid: sample, augment, grid."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli.options import SETTINGS, SOURCE_HELP, command, given, make
from job.errors import BadConfig
from job.folder.grid import format_grid
from job.trial import AUGMENTATION, ImageOptions, Trial

app = typer.Typer()


@command(app, Trial, names=SETTINGS, repeatable=True)
def grid(**values: list[Any]) -> None:
    """Print a grid: every combination of the given values.

    Repeat an option to give it several values: --lr 0.1 --lr 0.01. The trials are numbered.
    """
    import itertools

    found = given(values, Trial)
    trials = [make(Trial, {"trial": str(number), **dict(zip(found, combination, strict=True))})
              for number, combination in enumerate(itertools.product(*found.values()), 1)]
    typer.echo(format_grid(trials), nl=False)


@command(app, Trial, names=["image_size", *AUGMENTATION, "seed"])
def augment(source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
            out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("sheet.png"),
            **values: Any) -> None:
    """Draw a contact sheet of the images as the model sees them.

    Each line shows one image: first plain, as in validation, then augmented with the given settings.
    """
    from job.data.sheet import contact_sheet
    from job.data.source import read_source

    trial = make(Trial, {"weights": "none", "model": "mlp", **given(values, Trial)})
    out.write_bytes(contact_sheet(read_source(source, ImageOptions()), trial))
    say(f"{shlex.quote(str(out))}: each line shows one image, plain as in validation, then augmented as in training")


@command(app)
def sample(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to fill.", show_default=False)],
           num: Annotated[int, typer.Option(help="Number of images.", min=20, max=100_000)] = 400,
           seed: Annotated[int, typer.Option(help="Seed: another one draws other images.", min=0)] = 0) -> None:
    """Draw sample images, in class folders."""
    from job.data.sample import draw_images
    from job.folder.storage import open_folder

    target = open_folder(str(folder))
    if next(iter(target.names()), None):
        raise BadConfig(f"{folder}: not empty; name a new folder")
    for name, data in draw_images(num, seed):
        target.write(name, data)
    say(f"{folder}: {num} images")


def say(text: str) -> None:
    """Print a line, unless --quiet is given."""
    if not os.environ.get("TRIALGRID_QUIET"):
        typer.echo(text)
