"""A pack read into memory, at its own size or smaller."""

import itertools
from pathlib import Path

import pytest
import torch

from job.data.load import load_batches, loaded
from job.data.pack import Passport
from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.errors import BadConfig
from job.folder.storage import Folder, open_folder
from job.trial import Trial

TRIAL = Trial(trial="1", image_size=40)


def test_image_size_beyond_the_pack_is_refused_with_the_size_it_needs(packed: tuple[Folder, Passport]) -> None:
    with pytest.raises(BadConfig, match="--short-side 256"):
        load_batches(*packed, Trial(trial="1"), torch.device("cpu"))


def test_smaller_images_are_made_from_a_larger_pack(shapes: Path, tmp_path: Path) -> None:
    sweep = open_folder(str(tmp_path))
    passport = ensure_pack(sweep, str(shapes), {"short_side": 128}, lambda done, total: None)
    batches = load_batches(sweep, passport, TRIAL, torch.device("cpu"))
    assert batches.sizes_N2.min(1).values.unique().tolist() == [resize_side(40)]
    assert batches.centered(batches.indices["val"]).shape[1:] == (3, 40, 40)


def test_next_trial_of_a_process_has_the_images_at_once_and_another_pack_takes_their_place(
        shapes: Path, tmp_path: Path) -> None:
    loaded.clear()
    found = []
    for name, trial in (("a", TRIAL), ("a", Trial(trial="2", image_size=40, lr=0.1)), ("b", TRIAL),
                        ("b", Trial(trial="1", image_size=32, model="mlp", weights="none")), ("a", TRIAL)):
        sweep = open_folder(str(tmp_path / name))
        passport = ensure_pack(sweep, str(shapes), {"short_side": 64}, lambda done, total: None)
        found.append(load_batches(sweep, passport, trial, torch.device("cpu")))
        assert len(loaded) == 1
    assert found[1].images is found[0].images
    assert all(one.images is not other.images for one, other in itertools.pairwise(found[1:]))
    assert all(torch.equal(one, other) for one, other in zip(found[0].images, found[-1].images, strict=True))
