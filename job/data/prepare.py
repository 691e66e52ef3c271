"""The pack of a sweep folder: the one that is there, or a new one from the images that the sweep names."""

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
    """The sweep's pack, built first where it is missing; of many processes one builds it, and the others wait.

    images: the source's path or URI, or '' for the one that the sweep folder remembers; given: the ImageOptions that
    were asked for, the others being remembered or at their defaults. Raises BadConfig where a pack of other images or
    options stands there already, MissingInput where there is neither pack nor source.
    """
    asked = {**({"images": absolute(images)} if images else {}), **given}
    passport = read_passport(sweep)
    if passport:
        compare({"images": passport.source, **passport.options}, asked, sweep.uri)
        return passport
    known = {"images", *(spec.name for spec in fields(ImageOptions))}
    asked = {**{name: value for name, value in (read_json(sweep, SOURCE) or {}).items() if name in known}, **asked}
    if "images" not in asked:
        raise MissingInput(f"{sweep.uri}: no pack and no images to make it from; name them with --images")
    options = make_options({key: value for key, value in asked.items() if key != "images"})
    lease = claim(sweep, PACK, lambda: sweep.exists(PASSPORT), say, settings={"images": asked["images"], **asdict(options)})
    if lease:
        with held(lease):
            lease.check_deaths()
            before = lease.waited_for
            if before and before.state == "failed" and before.settings == lease.attempt.settings:
                # The same images would be found wanting again.
                raise failure_of(before)
            # The builder before may have ended between the last look and the claim.
            passport = read_passport(sweep) or build(sweep, asked["images"], options, progress, lease)
    else:
        passport = read_passport(sweep)
        assert passport, "the passport that ended the wait is gone"
    # Another builder may have been first, with other images or options.
    compare({"images": passport.source, **passport.options}, {"images": asked["images"], **asdict(options)}, sweep.uri)
    return passport


def fail_without_pack(sweep: Folder, trials: Sequence[Trial], error: JobError) -> None:
    """Write the trials' rows where no pack can be made for them; a row that is there already stays."""
    attempt = last_attempt(sweep, PACK)
    if attempt and attempt.state == "failed" and not sweep.exists(PASSPORT):
        for trial in trials:
            row = Row(settings=asdict(trial), status="failed", cause=f"there is no pack: {error}", host=host_name(),
                      image=os.environ.get("IMAGE", ""), finished_at=now())
            sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode())


def build(sweep: Folder, images: str, options: ImageOptions, progress: Callable[[int, int], None], lease: Lease) -> Passport:
    """Build the pack, with the right to it in hand."""
    source = read_source(images, options)
    # Whoever comes after a killed builder can begin again from this.
    sweep.write(SOURCE, (json.dumps({"images": images, **asdict(options)}, indent=1) + "\n").encode())

    def note(done: int, total: int) -> None:
        lease.progress(0, done, total)
        progress(done, total)

    return build_pack(source, sweep, options, note)


def make_options(values: Mapping[str, Any]) -> ImageOptions:
    """The options about images; raises BadConfig naming the option."""
    try:
        return ImageOptions(**values)
    except (ValueError, TypeError) as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None


def absolute(uri: str) -> str:
    """A path from the root, so that it means the same from every working directory; a URI as it is."""
    return uri.rstrip("/") if "://" in uri else os.path.normpath(Path(uri).expanduser().absolute())


def compare(have: dict[str, object], asked: dict[str, object], uri: str) -> None:
    """Raise BadConfig, naming each difference, where a pack was made with other options than are asked for."""
    # max_bad only decides whether a pack comes to be, not what is in it.
    names = [name for name in asked if name != "max_bad" and have.get(name) != asked[name]]
    if names:
        differences = "; ".join(f"{name} was {have.get(name)!r}, now {asked[name]!r}" for name in names)
        raise BadConfig(f"{uri}: its pack was made from other images or options ({differences}); "
                        "name a new sweep folder, or leave --images and these options out")
