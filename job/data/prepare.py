"""The pack of a sweep folder: the existing one, or a new one from the sweep's images."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from job.data.pack import Passport, build_pack, read_passport
from job.data.source import read_source
from job.errors import BadConfig, JobError, MissingInput
from job.folder.attempts import failure_of, host_name, last_attempt, now
from job.folder.layout import PACK, PASSPORT, SOURCE, read_json, trial_file
from job.folder.lease import Lease, claim, held
from job.folder.storage import Folder
from job.record import Row, row_to_json
from job.trial import ImageOptions, Trial


def ensure_pack(sweep: Folder, images: str, given: Mapping[str, Any], progress: Callable[[int, int], None],
                say: Callable[[str], None] = print) -> Passport:
    """Return the passport of the sweep's pack; build the pack if it is missing. One process builds, the others wait.

    images: path or URI of the source, or '' for the one recorded in the sweep folder. given: the ImageOptions that the
    user gave; the others are those recorded in the sweep folder, or the defaults. Raises BadConfig if there is a pack
    of other images or options, and MissingInput if there is neither a pack nor a source.
    """
    asked = {**({"images": absolute(images)} if images else {}), **given}
    passport = read_passport(sweep)
    if passport:
        compare({"images": passport.source, **passport.options}, asked, sweep.uri)
        return passport
    known = {"images", *(spec.name for spec in fields(ImageOptions))}
    asked = {**{name: value for name, value in (read_json(sweep, SOURCE) or {}).items() if name in known}, **asked}
    if "images" not in asked:
        raise MissingInput(f"{sweep.uri}: no pack, and no images to make one from; name them with --images")
    options = make_options({key: value for key, value in asked.items() if key != "images"})
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


def fail_without_pack(sweep: Folder, trials: Sequence[Trial], error: JobError) -> None:
    """Write failed rows for the trials after the pack could not be made; existing rows stay."""
    attempt = last_attempt(sweep, PACK)
    if attempt and attempt.state == "failed" and not sweep.exists(PASSPORT):
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
        progress(done, total)

    return build_pack(source, sweep, options, note)


def make_options(values: Mapping[str, Any]) -> ImageOptions:
    """Return the image options; raises BadConfig naming the wrong one."""
    try:
        return ImageOptions(**values)
    except (ValueError, TypeError) as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None


def absolute(uri: str) -> str:
    """Return a path as an absolute one, valid from every working directory; a URI unchanged."""
    return uri.rstrip("/") if "://" in uri else os.path.normpath(Path(uri).expanduser().absolute())


def compare(have: dict[str, object], asked: dict[str, object], uri: str) -> None:
    """Raise BadConfig, naming each difference, if a pack was made with other options than those asked for."""
    # max_bad decides only whether a pack is made, not what is in it.
    names = [name for name in asked if name != "max_bad" and have.get(name) != asked[name]]
    if names:
        differences = "; ".join(f"{name} was {have.get(name)!r}, now {asked[name]!r}" for name in names)
        raise BadConfig(f"{uri}: its pack was made from other images or options ({differences}); "
                        "name a new sweep folder, or leave out --images and these options")
