"""Every trial of a grid on this machine, one after another; one that fails does not stop the others."""

import gc
import traceback
from collections.abc import Sequence

from job.data.pack import Passport
from job.errors import AccessDenied, JobError, Stopped, TryAgain
from job.layout import trial_file
from job.record import Row, row_to_json
from job.storage import Folder
from job.training.display import Display
from job.training.run import failed_row, run_trial
from job.trial import Trial


def run_sweep(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display) -> list[JobError]:
    """Run the trials that have no row yet; answers the failures. Raises Stopped, TryAgain or AccessDenied at once."""
    failures = []
    for trial in trials:
        try:
            attempt(sweep, trial, passport, display)
        except (Stopped, TryAgain, AccessDenied):
            raise
        except JobError as error:
            # A copy: the error itself would keep the failed trial's frames, and so its memory, from the next trials.
            failures.append(type(error)(str(error)))
        gc.collect()
    return failures


def attempt(sweep: Folder, trial: Trial, passport: Passport, display: Display) -> Row:
    """Run one trial; where it fails for a reason of its own, write a row that says so, then raise the reason.

    What a later try may mend (storage, credentials, a stop signal) leaves no row.
    """
    try:
        return run_trial(sweep, trial, passport, display)
    except (Stopped, TryAgain, AccessDenied):
        raise
    except JobError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever breaks a trial becomes its row, and exit code 70.
        display.say(traceback.format_exc())
        failure = JobError(f"trial {trial.trial}: {type(error).__name__}: {error} (a fault of this program; "
                           "please report it with the lines above)")
        failure.__cause__ = error
    row = failed_row(trial, passport, str(failure))
    # A row that is there already (of other settings, say) is the reason itself, and stays.
    if sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode()):
        display.row(row, already=False)
    else:
        display.say(f"trial {trial.trial}  FAILED: {failure}")
    raise failure
