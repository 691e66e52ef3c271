"""Packs of small images, as tests make them."""

from dataclasses import asdict
from pathlib import Path

from job.data.pack import Passport
from job.data.prepare import ensure_pack
from job.folder.storage import open_folder
from job.trial import ImageOptions

SMALL = ImageOptions(short_side=48)


def quiet(done: int, total: int) -> None:
    """Show no progress."""


def pack(source: Path | str, sweep: Path | str, options: ImageOptions = SMALL) -> Passport:
    """Build the pack of a sweep from these images, or return the one that is there."""
    given = {name: value for name, value in asdict(options).items() if value != getattr(ImageOptions(), name)}
    return ensure_pack(open_folder(str(sweep)), str(source), given, quiet)
