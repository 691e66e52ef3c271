"""trialgrid: images + grid -> pack -> trials -> metrics rows -> summary workbook.

In a notebook: `sweep = job.open("s3://bucket/sweeps/first")`, then `sweep.table`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from job.results.sweep import Sweep

__all__ = ["open"]


def open(uri: str) -> "Sweep":
    """Return the sweep in a folder, a path or an s3:// URI, for reading in Python; needs no torch.

    Raises MissingInput if there is nothing in the folder, BadConfig for a URI of another scheme.
    """
    from job.results.sweep import open_sweep

    return open_sweep(uri)
