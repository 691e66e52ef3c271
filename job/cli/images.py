"""Commands that draw images or print a grid: sample, augment, grid."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli.options import SETTINGS, SOURCE_HELP, command, given, make, not_empty, note, number
from job.cli.ranges import Range, draw, ranges_of
from job.errors import BadConfig, MissingInput
from job.folder.grid import format_grid
from job.folder.groups import all_folds
from job.folder.local import local_errors
from job.trial import AUGMENTATION, ImageOptions, Trial

app = typer.Typer()


@command(app, Trial, names=SETTINGS, repeatable=True)
def grid(num: Annotated[int | None, typer.Option(
             help="Number of points to draw from the ranges.", show_default=False, **number(int, 1, 100_000))] = None,
         draw_seed: Annotated[int | None, typer.Option(
             help="Seed: another one draws other points.  [default: 0]", show_default=False,
             **number(int, 0, 2**32 - 1))] = None,
         **values: list[Any]) -> None:
    """Print a grid: every combination of the given values, or values drawn from ranges.

    Repeat an option to give it several values: --lr 0.1 --lr 0.01. The trials are numbered. --folds without --fold
    makes every combination once per fold: 1-f1, 1-f2, ...

    A numeric option takes a range, too: --lr 1e-4..1e-1 --dropout 0..0.5 --num 24 draws 24 points that cover all ranges
    evenly: lr, weight_decay, batch_size and stop_min_delta on a logarithmic scale. Each point is combined with every
    combination of the other options' values.
    """
    import itertools

    found = given(values, Trial)
    ranges = ranges_of(found)
    by_folds = bool(found.get("folds")) and not found.get("fold")
    found |= {"fold": [1]} if by_folds else {}
    listed = {name: choices for name, choices in found.items() if name not in ranges}
    settings = [{**point, **dict(zip(listed, combination, strict=True))}
                for point in points_of(ranges, num, draw_seed) for combination in itertools.product(*listed.values())]
    trials = [make(Trial, {"trial": str(number), **some}) for number, some in enumerate(settings, 1)]
    typer.echo(format_grid([fold for trial in trials for fold in all_folds(trial)] if by_folds else trials), nl=False)


def points_of(ranges: dict[str, Range], num: int | None, seed: int | None) -> list[dict[str, float]]:
    """Return the points to draw, or without ranges one without values; raises BadConfig if an option is missing."""
    if not ranges:
        for name, value in (("num", num), ("draw-seed", seed)):
            if value is not None:
                raise BadConfig(f"--{name} has no effect without a range; give one, for example --lr 1e-4..1e-1, or "
                                "leave it out")
        return [{}]
    if num is None:
        name = next(iter(ranges))
        raise BadConfig(f"--{name.replace('_', '-')} is a range, {ranges[name]}; say with --num how many points to "
                        "draw, for example --num 24")
    return draw(ranges, num, seed or 0)


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
