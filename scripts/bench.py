"""Measure this program against what people use instead, on the same images and machine: one command per table.

Each result is a line of JSON with commit and hardware; benchmarks.md records them. Run it on an otherwise idle machine.
"""

import os
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from job.data.cores import share_processor

# As `job` does, before torch is imported.
share_processor()

from bench_cheaper import features, train_size
from bench_gpu import gpu
from bench_predict import predict
from bench_prepare import growth, prepare
from bench_race import race
from bench_shared import shared
from bench_start import start
from bench_steps import steps
from bench_trainers import epochs, grid

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help=__doc__)
for command in (grid, epochs, steps, prepare, growth, predict, start, shared, features, train_size, race, gpu):
    app.command()(command)

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    app()
