"""Commands that draw images or print a grid: sample, augment, grid."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli.options import SETTINGS, SOURCE_HELP, command, given, make, not_empty, note, number
from job.errors import BadConfig, MissingInput
from job.folder.grid import format_grid
from job.folder.groups import all_folds
from job.folder.local import local_errors
from job.trial import AUGMENTATION, ImageOptions, Trial

app = typer.Typer()


@command(app, Trial, names=SETTINGS, repeatable=True)
def grid(**values: list[Any]) -> None:
    """Print a grid: every combination of the given values.

    Repeat an option to give it several values: --lr 0.1 --lr 0.01. The trials are numbered. --folds without --fold
    makes every combination once per fold: 1-f1, 1-f2, ...
    """
    import itertools

    found = given(values, Trial)
    by_folds = bool(found.get("folds")) and not found.get("fold")
    found |= {"fold": [1]} if by_folds else {}
    trials = [make(Trial, {"trial": str(number), **dict(zip(found, combination, strict=True))})
              for number, combination in enumerate(itertools.product(*found.values()), 1)]
    typer.echo(format_grid([fold for trial in trials for fold in all_folds(trial)] if by_folds else trials), nl=False)


@command(app, Trial, names=["image_size", *AUGMENTATION, "seed"])
def augment(source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, callback=not_empty,
                                                  show_default=False)],
            out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("sheet.png"),
            **values: Any) -> None:
    """Draw a contact sheet of the images as the model sees them.

    Each line shows one image: first plain, as in validation, then augmented with the given settings.
    """
    from job.data.sheet import contact_sheet
    from job.data.source import read_source

    trial = make(Trial, {"weights": "none", "model": "mlp", **given(values, Trial)})
    refuse_unwritable(out)
    sheet = contact_sheet(read_source(source, ImageOptions()), trial)
    with local_errors(out):
        out.write_bytes(sheet)
    note(f"{shlex.quote(str(out))}: each line shows one image, plain as in validation, then augmented as in training",
         to_stderr=False)


@command(app)
def sample(folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder to fill: a path or an s3:// URI.",
                                                 callback=not_empty, show_default=False)],
           num: Annotated[int, typer.Option(help="Number of images, from 20 to 100000.",
                                            **number(int, 20, 100_000))] = 400,
           seed: Annotated[int, typer.Option(help="Seed: another one draws other images.",
                                             **number(int, 0, 2**32 - 1))] = 0) -> None:
    """Draw sample images, in class folders."""
    from job.data.sample import draw_images
    from job.folder.storage import open_folder

    target = open_folder(folder)
    if next(iter(target.names()), None):
        raise BadConfig(f"{folder}: not empty; name a new folder")
    num_drawn = 0
    for name, data in draw_images(num, seed):
        target.write(name, data)
        num_drawn += 1
    note(f"{folder}: {num_drawn} images", to_stderr=False)


def refuse_unwritable(path: Path) -> None:
    """Raise MissingInput or BadConfig, before any work is done, if a file cannot lie at this path."""
    with local_errors(path):
        if path.is_dir():
            raise BadConfig(f"{path}: a folder; name a file in it")
        if not path.parent.exists():
            raise MissingInput(f"{path}: there is no folder {path.parent}; make it, or name a file in another folder")
        if not path.parent.is_dir():
            raise BadConfig(f"{path}: {path.parent} is no folder; name a file in a folder")
