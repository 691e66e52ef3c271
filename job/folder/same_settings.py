"""A trial's name stands for its settings: a trial that has begun under a name cannot change them."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from job.errors import BadConfig
from job.folder.attempts import last_attempt
from job.folder.layout import read_row, trial_file, trial_work
from job.folder.storage import Folder, join
from job.trial import Trial


def refuse_changed_settings(sweep: Folder, trials: Sequence[Trial], pack_hash: str | None = None) -> None:
    """Raise BadConfig if a trial has begun or ended with other settings or another pack; reads no checkpoint.

    pack_hash: None while the pack is not known.
    """
    for trial in trials:
        row = read_row(sweep, trial.trial)
        if row and row.status != "failed":
            where = join(sweep.uri, trial_file(trial.trial, "row.json"))
            check_same(where, row.settings, row.pack_hash, trial, pack_hash)
        elif not row and (attempt := last_attempt(sweep, trial_work(trial.trial))) and attempt.settings:
            check_same(join(sweep.uri, trial_work(trial.trial)), attempt.settings, attempt.pack_hash, trial, pack_hash)


def check_same(where: str, settings: dict[str, Any], used_pack: str, trial: Trial, pack_hash: str | None) -> None:
    """Raise BadConfig, naming each difference, if a file was made with other settings or from another pack."""
    want = asdict(trial)
    # A setting that an older version did not have was at its default.
    have = {spec.name: settings.get(spec.name, spec.default) for spec in fields(Trial)}
    differences = [f"{name} was {have[name]!r}, now {want[name]!r}" for name in want if have[name] != want[name]]
    if pack_hash is not None and used_pack != pack_hash:
        differences.append(f"the pack was {used_pack[:12]}, now {pack_hash[:12]}")
    if differences:
        raise BadConfig(f"{where} was made with other settings ({'; '.join(differences)}); "
                        "give the trial a new name in the grid, or delete its folder to start it again")
