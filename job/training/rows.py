"""The life of a trial's row: finished, failed, or set aside for another try."""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from job.data.pack import Passport
from job.errors import AccessDenied, JobError, Stopped, SweepRemoved, TakenOver, TryAgain
from job.folder.attempts import now
from job.folder.layout import PASSPORT, read_row, trial_file
from job.folder.lease import Lease
from job.folder.same_settings import check_same
from job.folder.storage import Folder, join
from job.record import Row, row_to_json
from job.training.display import Display
from job.training.host import circumstances
from job.trial import Trial


@contextlib.contextmanager
def failure_as_row(sweep: Folder, trial: Trial, passport: Passport, display: Display, lease: Lease) -> Iterator[None]:
    """If the block fails because of the trial itself, write a failed row with the cause, and raise the error.

    No row is written for what another try can solve (storage, credentials, a stop signal), nor for a trial that another
    process has taken over or that was removed.
    """
    try:
        yield
    except (Stopped, TryAgain, AccessDenied, TakenOver, SweepRemoved):
        raise
    except JobError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the one broad except: any error becomes the row, and exit code 70.
        display.say(traceback.format_exc())
        failure = JobError(f"{type(error).__name__}: {error} (a bug in this program; please report it with the "
                           "traceback above)")
        failure.__cause__ = error
    else:
        return
    lease.confirm()
    row = Row(settings=asdict(trial), status="failed", cause=str(failure), started_at=now(), **circumstances(passport))
    sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode())
    raise failure


def finished_row(sweep: Folder, trial: Trial, passport: Passport) -> Row | None:
    """Return the row of a trial that has ended well; raises BadConfig if it has other settings or another pack."""
    row = read_row(sweep, trial.trial)
    if not row or row.status == "failed":
        return None
    where = join(sweep.uri, trial_file(trial.trial, "row.json"))
    check_same(where, row.settings, row.pack_hash, trial, passport.pack_hash)
    return row


def check_not_removed(sweep: Folder) -> None:
    """Raise SweepRemoved if the pack, which the command has read, is gone: no trial begins in what is left."""
    if not sweep.exists(PASSPORT):
        raise SweepRemoved(f"{join(sweep.uri, PASSPORT)}: the pack was removed while this command ran, so it trains "
                           "nothing more; to make it anew, run the command again")


def failed_rows(sweep: Folder, trials: Sequence[Trial]) -> dict[str, Row]:
    """Return the rows of those trials that have failed, by the trial's name."""
    rows = {trial.trial: read_row(sweep, trial.trial) for trial in trials}
    return {name: row for name, row in rows.items() if row and row.status == "failed"}


def failure_since(sweep: Folder, trial: Trial, failed_before: Mapping[str, Row]) -> JobError | None:
    """Return the error of a trial whose failed row is not the one in `failed_before`; None if there is no such row."""
    row = failed_rows(sweep, [trial]).get(trial.trial)
    return JobError(f"trial {trial.trial}: {row.cause}") if row and row != failed_before.get(trial.trial) else None


def set_failed_aside(sweep: Folder, trial: Trial, lease: Lease) -> None:
    """Rename the row of a failed trial to failed-NUMBER.json, so that the trial is tried again."""
    row = read_row(sweep, trial.trial)
    if row and row.status == "failed":
        set_aside(sweep, row, lease.guard)


def set_aside(sweep: Folder, row: Row, guard: Callable[[], None] = lambda: None) -> None:
    """Rename a row to STATUS-NUMBER.json, so that its trial is trained again or trained on."""
    number = sum(1 for _ in sweep.names(trial_file(row.trial, f"{row.status}-"))) + 1
    sweep.write(trial_file(row.trial, f"{row.status}-{number}.json"), row_to_json(row).encode())
    guard()
    sweep.delete(trial_file(row.trial, "row.json"))


def set_raced_aside(sweep: Folder, trials: Sequence[Trial], passport: Passport) -> None:
    """Rename the rows of raced trials, so that these go on from their checkpoints; raises as `finished_row` does."""
    for trial in trials:
        if (row := finished_row(sweep, trial, passport)) and row.status == "raced":
            set_aside(sweep, row)
