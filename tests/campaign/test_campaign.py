"""Rounds of kills, freezes, failing storage and damaged files, each drawn from a seed, until the time is over."""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import spoiling
import storms
from rounds import Ground, Round, facts_of, read_sweep
from support import ROOT, S3, job

KINDS: dict[str, Callable[[Round], None]] = {
    "kills on disk": storms.on_disk, "damaged images": spoiling.images, "storage faults": storms.faulty_storage,
    "damaged files": spoiling.sweep_files, "kills in S3": storms.in_s3,
    "storage faults and kills": storms.faulty_storage_and_kills, "kills in a race": storms.on_disk,
    "storage faults and kills in a race": storms.faulty_storage_and_kills}
# Trials 1 and 2 are a trajectory.
GRID = """trial,model,lr,epochs,schedule,batch_size,image_size,weights
1,mlp,0.02,4,step,8,40,none
2,mlp,0.02,9,step,8,40,none
3,resnet18,0.01,3,cosine,8,40,none
4,mlp,0.05,5,cosine,8,40,none
5,resnet18,0.02,5,step,8,40,none
"""


@pytest.fixture
def grounds(shapes: Path, s3: S3, race_grid: Path, tmp_path: Path) -> dict[bool, Ground]:
    """Undisturbed sweeps on disk, trained once: without a race, and of ten small trials in one."""
    (tmp_path / "grid.csv").write_text(GRID)
    found: dict[bool, Ground] = {}
    for grid, options in ((tmp_path / "grid.csv", ()), (race_grid, ("--race",))):
        sweep, began = tmp_path / f"undisturbed{len(found)}", time.monotonic()
        done = job("sweep", "--images", shapes, "--grid", grid, "--short-side", 48, *options, sweep,
                   GIT_COMMIT="campaign")
        assert done.code == 0, done.err
        facts = facts_of(read_sweep(sweep))
        found[bool(options)] = Ground(shapes, grid, sweep, facts, time.monotonic() - began, s3, options)
    plain, raced = found[False].facts, found[True].facts
    assert sorted(plain) == ["1", "2", "3", "4", "5"] and all(len(plain[trial]) == 4 for trial in plain)
    assert sorted(map(len, raced.values())) == [2] * 7 + [4] * 3
    return found


def run_round(seed: int, grounds: dict[bool, Ground], folder: Path, tally: Counter[str]) -> None:
    """Run the round of a seed; a failure says what was done and where its files are."""
    kind = list(KINDS)[seed % len(KINDS)]
    round_ = Round(seed, folder, grounds[kind.endswith("in a race")], tally, random.Random(seed))
    folder.mkdir()
    tally["rounds"] += 1
    tally[f"rounds: {kind}"] += 1
    print(f"seed {seed}: {kind}", end="", flush=True)
    failure = ""
    try:
        KINDS[kind](round_)
    except AssertionError as error:
        failure = str(error)
    finally:
        round_.clean_up()
    if failure:
        # pytest keeps the folders of its last three runs alone.
        kept = shutil.move(folder, tempfile.mkdtemp(prefix="campaign-"))
        done = "\n".join(round_.done)
        pytest.fail(f"{failure}\n\nseed {seed}: {kind}\n{done}\n\nits files: {kept}\n"
                    f"this round again: scripts/campaign 0 {seed}", pytrace=False)
    shutil.rmtree(folder)
    print(f", {time.monotonic() - round_.began:.0f} s", flush=True)


@pytest.mark.campaign
def test_nothing_is_lost_and_all_is_equal(grounds: dict[bool, Ground], tmp_path: Path) -> None:
    seed, minutes = int(os.environ.get("CAMPAIGN_SEED", "0")), float(os.environ.get("CAMPAIGN_MINUTES", "0"))
    began, tally = time.monotonic(), Counter[str]()
    print(f"\nan undisturbed sweep takes {grounds[False].seconds:.0f} s", flush=True)
    try:
        while True:
            run_round(seed, grounds, tmp_path / f"seed-{seed}", tally)
            seed += 1
            if time.monotonic() - began > 60 * minutes:
                break
    finally:
        figures = [f"{count:7d}  {name}" for name, count in sorted(tally.items())]
        print("\n".join([*figures, f"{time.monotonic() - began:7.0f}  seconds"]), flush=True)


@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), ([], 2), (["soon"], 2), (["1", "-3"], 2)])
def test_script_explains_itself(args: list[str], code: int) -> None:
    done = subprocess.run(["bash", ROOT / "scripts" / "campaign", *args], capture_output=True, text=True, check=False)
    assert done.returncode == code and "scripts/campaign MINUTES [SEED]" in done.stdout + done.stderr
