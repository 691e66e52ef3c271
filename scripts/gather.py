#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["pandas>=2.3", "boto3>=1.40", "xlsxwriter>=3.2", "jinja2>=3.1", "pillow>=11",
#   "rich>=14"]
# ///
"""Merge a sweep's rows into its summary workbook, as `job gather SWEEP` does.

It needs no torch: `uv run scripts/gather.py SWEEP`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.errors import JobError
from job.folder.storage import open_folder
from job.results.gather import gather
from job.results.terminal import print_gathered


def main() -> int:
    """Gather the sweep named on the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", help="the sweep's folder: a path or s3://bucket/folder")
    folder = open_folder(parser.parse_args().sweep)
    try:
        print_gathered(folder, *gather(folder))
    except JobError as error:
        print(f"gather: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
