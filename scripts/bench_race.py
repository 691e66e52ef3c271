"""A race against the full grid: what it saves and what it misses, beside other schedulers on the same curves."""

import itertools
import json
import random
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from bench_run import ROOT, report, run
from bench_trainers import Positive, environment_with
from recorded import Recorded, Trained, after_one_epoch, at_random, fewer_images, figures, summary, with_pods

from job.folder.grid import format_grid, read_grid
from job.folder.layout import read_epochs, read_row, trial_file
from job.folder.storage import Folder, open_folder
from job.training.race import rungs_of
from job.training.rungs import Seen
from job.trial import Trial

SCHEDULERS = ("optuna==5.0.0", "ray[tune]==2.60.0")
# An epoch that ranks most settings already, by i-Epoch (arXiv 2404.04111); the best third goes on.
EARLY = 3
NUM_WORKERS = 4
# So many of the validation images are drawn, where there are twice as many; what is drawn is drawn so often.
FEWER, DRAWS = (25, 50, 100, 200, 400, 800), 40


def race(out: Annotated[Path, typer.Argument(help="A folder for the sweeps; what it has is not trained again.")],
         images: Annotated[str, typer.Option(help="Images: class folders or a CSV file; default: drawn ones.")] = "",
         positive: Positive = "",
         num: Annotated[int, typer.Option(help="Images that are drawn, others for each seed.", min=60)] = 1000,
         val: Annotated[float, typer.Option(help="Share of the images for validation, as in `job prepare`.")] = 0.2,
         num_seeds: Annotated[int, typer.Option(help="Seeds, each with a split of its own.", min=1)] = 2,
         lr: Annotated[list[float], typer.Option(help="Learning rates; 4 trials each.")] = [  # noqa: B006
             0.3, 0.1, 0.03, 0.01, 0.003, 0.001],
         model: Annotated[str, typer.Option(help="A model of `job grid`.")] = "mlp",
         num_epochs: Annotated[int, typer.Option("--epochs", help="Epochs per trial.", min=4)] = 18,
         against: Annotated[str, typer.Option(help="Schedulers of other libraries, separated by commas.")] =
         "optuna,asha") -> None:
    """A race of 24 trials and then their full grid, per seed: epochs, regret, and whether the winner is the same.

    The race is real. The other schedulers are simulated on the curves of the full grid: Optuna's pruner with a worker,
    Ray Tune's ASHA with 4, stopping after epoch 3 alone, the race's own rule with a pod per trial, and trials that are
    drawn and trained to their ends for as many epochs. Regret is the accuracy of the full grid's winner less that of
    the winner among the trials that are trained to their end. At the end, the race with fewer validation images,
    simulated on the rungs of all trials.
    """
    plain = Trial(model=model, weights="none", image_size=33, epochs=num_epochs, schedule="cosine")
    plain = replace(plain, hidden="64", batch_norm=True) if model == "mlp" else plain
    found, few = dict[str, list[dict[str, Any]]](), dict[int, list[dict[str, Any]]]()
    for seed in range(num_seeds):
        raced, recorded = race_and_grid(out / str(seed), images, trials_of(plain, lr, seed), (
            *(("--positive", positive) if positive else ()), "--val", val, "--split-seed", seed), num)
        simulated = simulate(recorded, rungs_of(plain)[0], seed, list(filter(None, against.split(","))))
        of_seed = {who: figures(recorded, trained) for who, trained in {"race": raced, **simulated}.items()}
        of_seed["trials at random"] = at_random(recorded, sum(raced.values()), DRAWS, seed)
        for who, line in of_seed.items():
            found.setdefault(who, []).append(line)
            report("race", who=who, simulated=who != "race", seed=seed, **line)
        for count in FEWER:
            if 2 * count <= recorded.num_val:
                few.setdefault(count, []).append(fewer_images(recorded, count, DRAWS, seed))
    facts = {"images": images or f"{num} drawn", "trials": len(recorded.rows), "model": model, "epochs": num_epochs}
    report_seeds(found, few, facts | {"of_val": recorded.num_val, "seeds": num_seeds})


def report_seeds(found: dict[str, list[dict[str, Any]]], few: dict[int, list[dict[str, Any]]],
                 facts: dict[str, Any]) -> None:
    """Report what the seeds show together, per scheduler and per number of validation images."""
    for who, lines in found.items():
        report("race", who=who, simulated=who != "race", **summary(lines), **facts)
    for rows in few.values():
        means = {name: round(statistics.mean(row[name] for row in rows), 4) for name in rows[0]}
        report("race-fewer-images", simulated=True, draws=DRAWS, **means, **facts)


def trials_of(plain: Trial, lrs: Iterable[float], seed: int) -> list[Trial]:
    """Return a grid of learning rate, weight decay and augmentation."""
    return [replace(plain, trial=str(number), lr=lr, weight_decay=decay, crop=crop, seed=seed)
            for number, (lr, decay, crop) in enumerate(itertools.product(lrs, (0.0, 0.01), (0.08, 0.5)), 1)]


def race_and_grid(sweep: Path, images: str, trials: Sequence[Trial], split: Sequence[object],
                  num: int) -> tuple[Trained, Recorded]:
    """Race the trials, then train them all to their ends; return how many epochs the race trained, and the grid."""
    raced = sweep.with_name(f"{sweep.name}-raced.json")
    folder = open_folder(str(sweep))
    if not raced.exists():
        drawn, grid = sweep.with_name(f"{sweep.name}-images"), sweep.with_name(f"{sweep.name}-grid.csv")
        sweep.parent.mkdir(parents=True, exist_ok=True)
        grid.write_text(format_grid(trials))
        if not images and not drawn.exists():
            run("sample", drawn, "--num", num, "--seed", trials[0].seed)
        run("sweep", "--race", "--images", images or drawn, *split, "--short-side", 48, "--grid", grid, sweep)
        raced.write_text(json.dumps({trial.trial: len(read_epochs(folder, trial.trial)) for trial in trials}))
    if any(row.status == "raced" for trial in trials if (row := read_row(folder, trial.trial))):
        run("sweep", "--no-race", sweep)
    return json.loads(raced.read_text()), read_recorded(folder)


def read_recorded(sweep: Folder) -> Recorded:
    """Return what a full grid has recorded."""
    names = [trial.trial for trial in read_grid(sweep)]
    seen = Seen(sweep, print)
    seen.look(now=True)
    rungs = sorted(filter(None, seen.rungs.values()), key=lambda rung: rung.epoch)
    return Recorded({name: read_epochs(sweep, name) for name in names},
                    {name: row for name in names if (row := read_row(sweep, name))},
                    {name: [rung for rung in rungs if rung.trial == name] for name in names},
                    {name: right_of(sweep, name) for name in names})


def right_of(sweep: Folder, trial: str) -> np.ndarray:
    """Return which validation images the best epoch of a trial has right, in the order of the pack."""
    table = pd.read_csv(Path(sweep.uri) / trial_file(trial, "predictions.csv"), dtype=str)
    table = table[table["split"] == "val"]
    return np.asarray(table["label"] == table["predicted"], dtype=bool)


def simulate(recorded: Recorded, first: int, seed: int, others: Sequence[str]) -> dict[str, Trained]:
    """Return how many epochs each trial trains under the other schedulers, whose first rung is that of the race.

    Those that begin one trial after another take them in a random order, as a search does.
    """
    order = random.Random(seed).sample(sorted(recorded.epochs), len(recorded.epochs))
    seconds = {trial: recorded.seconds[trial] for trial in order}
    found = {"epoch 3 alone": after_one_epoch(recorded.epochs, EARLY),
             f"race, {NUM_WORKERS} pods at a time": with_pods(recorded.rungs, seconds, NUM_WORKERS),
             "race, all pods at once": with_pods(recorded.rungs, seconds, len(order))}
    if others:
        python = environment_with(".venv-schedulers", SCHEDULERS)
        for name in others:
            given = {"accuracies": recorded.accuracies, "seconds": seconds, "first": first,
                     "num_workers": 1 if name == "optuna" else NUM_WORKERS}
            done = subprocess.run([python, ROOT / "scripts" / "schedulers.py", name], input=json.dumps(given),
                                  check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[name] = json.loads(done.stdout)[name]
    return found
