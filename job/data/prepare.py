"""The pack of a sweep folder: the existing one, or a new one from the sweep's images."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from job.data.names import composed
from job.data.pack import Passport, build_pack, read_passport
from job.data.sizes import resize_side
from job.data.source import because, is_csv, read_source
from job.errors import BadConfig, BadData, JobError, MissingInput
from job.folder.attempts import failure_of, host_name, last_attempt, now
from job.folder.layout import PACK, PASSPORT, SOURCE, read_json, trial_file
from job.folder.lease import Lease, claim, held
from job.folder.patience import patiently
from job.folder.storage import Folder, local_path, open_folder, split_uri
from job.record import Row, row_to_json
from job.trial import ImageOptions, Trial


def ensure_pack(sweep: Folder, images: str, given: Mapping[str, Any], progress: Callable[[int, int], None],
                say: Callable[[str], None] = print) -> Passport:
    """Return the passport of the sweep's pack; build the pack if it is missing. One process builds, the others wait.

    images: path or URI of the source, or '' for the one recorded in the sweep folder. given: the ImageOptions that the
    user gave; the others are those recorded in the sweep folder, or the defaults. Raises BadConfig if there is a pack
    of other images or options or no pack can be there, and MissingInput if there is neither a pack nor a source.
    """
    refuse_undecodable(sweep)
    passport = read_passport(sweep)
    if passport:
        compare({"images": passport.source, **passport.options}, with_images(images, given), sweep.uri)
        return passport
    refuse_before_packing(sweep, images, given)
    asked = recorded(sweep) | with_images(images, given)
    if "images" not in asked:
        raise MissingInput(f"{sweep.uri}: no pack, and no images to make one from; name them with --images")
    options = options_of(asked)
    settings = {"images": asked["images"], **asdict(options)}
    lease = claim(sweep, PACK, lambda: sweep.exists(PASSPORT), say, settings=settings)
    if lease:
        with held(lease):
            lease.check_deaths()
            before = lease.waited_for
            if before and before.state == "failed" and before.settings == lease.attempt.settings:
                # The same images would fail again.
                raise failure_of(before)
            # Another builder may have finished just before the claim.
            passport = read_passport(sweep) or build(sweep, asked["images"], options, progress, lease)
    else:
        passport = read_passport(sweep)
        assert passport, "the passport that ended the wait is gone"
    # Another builder may have been first, with other images or options.
    compare({"images": passport.source, **passport.options}, settings, sweep.uri)
    return passport


def refuse_undecodable(sweep: Folder) -> None:
    """Raise BadConfig for a folder whose path is not UTF-8: safetensors cannot open a file in it."""
    try:
        sweep.uri.encode()
    except UnicodeEncodeError:
        raise BadConfig(f"{sweep.uri}: this path is not UTF-8, so the files of a pack cannot be opened in it; rename "
                        "the folder, or name another one") from None


class PackTooSmall(BadConfig):
    """A trial needs larger images than the pack will have."""


def refuse_before_packing(sweep: Folder, images: str, given: Mapping[str, Any], trials: Sequence[Trial] = ()) -> None:
    """Raise BadConfig for what would be found only after the images are decoded; with a pack, do nothing.

    That is a sweep folder among the images, where its files would become images, and a trial that needs larger images
    than the pack will have (PackTooSmall).
    """
    if sweep.exists(PASSPORT):
        return
    asked = recorded(sweep) | with_images(images, given)
    if "images" in asked:
        refuse_among_images(sweep, str(asked["images"]))
    short_side = options_of(asked).short_side
    largest = max(trials, key=lambda trial: trial.image_size, default=None)
    if largest and (wanted := resize_side(largest.image_size)) > short_side:
        raise PackTooSmall(f"trial {largest.trial}: image_size {largest.image_size} needs images with a short side of "
                           f"{wanted}, and the pack would have {short_side}; give --short-side {wanted}, or a smaller "
                           "image_size")


def refuse_among_images(sweep: Folder, images: str) -> None:
    """Raise BadConfig for a sweep folder that is the folder of the images or lies in it."""
    source = real_place(open_folder(split_uri(images)[0] if is_csv(images) else images))
    place = real_place(sweep)
    # Beside a CSV only the files that it names are images, so a folder there is no harm.
    among = f"{source.rstrip('/')}/{'images/' if is_csv(images) else ''}"
    if place == source or f"{place}/".startswith(among):
        raise BadConfig(f"{sweep.uri}: the sweep's folder is among the images of {images}, and its files would become "
                        "images; name a folder outside")


def real_place(folder: Folder) -> str:
    """Return where a folder lies, with links resolved."""
    path = local_path(folder)
    return os.path.realpath(path) if path else folder.uri


def with_images(images: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave, with the source if one is named; texts in Unicode's composed form."""
    named = {"images": absolute(images)} if images else {}
    return named | {name: same(value) for name, value in given.items()}


def recorded(sweep: Folder) -> dict[str, Any]:
    """Return the source and the options of a builder that was killed; empty if there was none."""
    known = {"images", *(spec.name for spec in fields(ImageOptions))}
    return {name: value for name, value in (read_json(sweep, SOURCE) or {}).items() if name in known}


def fail_without_pack(sweep: Folder, trials: Sequence[Trial], error: JobError) -> None:
    """Write failed rows for the trials after the pack could not be made; existing rows stay."""
    attempt = last_attempt(sweep, PACK)
    has_failed = isinstance(error, PackTooSmall) or (attempt and attempt.state == "failed")
    if has_failed and not sweep.exists(PASSPORT):
        for trial in trials:
            row = Row(settings=asdict(trial), status="failed", cause=f"there is no pack: {error}", host=host_name(),
                      image=os.environ.get("IMAGE", ""), finished_at=now())
            sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode())


def build(sweep: Folder, images: str, options: ImageOptions, progress: Callable[[int, int], None],
          lease: Lease) -> Passport:
    """Build the pack under its lease; return the passport."""
    source = read_source(images, options)
    # If this builder is killed, the next one starts from this record.
    sweep.write(SOURCE, (json.dumps({"images": images, **asdict(options)}, indent=1) + "\n").encode())

    def note(done: int, total: int) -> None:
        lease.progress(0, done, total)
        if done == total:
            # The last look before the passport is written.
            patiently(lease.beat)
        if lease.removed:
            lease.guard()
        progress(done, total)

    try:
        return build_pack(source, sweep, options, note)
    except BadData as error:
        raise BadData(f"{error}{because(source.notes)}") from None


def options_of(asked: Mapping[str, Any]) -> ImageOptions:
    """Return the image options of a source's settings; raises BadConfig naming the wrong one."""
    try:
        return ImageOptions(**{name: value for name, value in asked.items() if name != "images"})
    except (ValueError, TypeError) as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None


def absolute(uri: str) -> str:
    """Return a path as an absolute one, valid from every working directory; a URI unchanged."""
    return uri.rstrip("/") if "://" in uri else os.path.normpath(Path(uri).expanduser().absolute())


def compare(have: dict[str, object], asked: dict[str, object], uri: str) -> None:
    """Raise BadConfig, naming each difference, if a pack was made with other options than those asked for."""
    # max_bad decides only whether a pack is made, not what is in it.
    # Older packs hold a positive class as it was written; two Unicode forms of a name look the same.
    # Older packs have none of the options that came later; they do not look for near-identical images.
    later = {"near": (0, ImageOptions.near)}
    names = [name for name in asked if name != "max_bad" and same(have.get(name)) != same(asked[name])
             and (name in have or asked[name] not in later.get(name, ()))]
    if names:
        differences = "; ".join(f"{name} was {have.get(name)!r}, now {asked[name]!r}" for name in names)
        raise BadConfig(f"{uri}: its pack was made from other images or options ({differences}); "
                        "name a new sweep folder, or leave out --images and these options")


def same(value: object) -> object:
    """Return one value for all Unicode forms of a text."""
    return composed(value) if isinstance(value, str) else value
