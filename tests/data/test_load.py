"""A pack read into memory, at its own size or smaller."""

from pathlib import Path

import pytest
import torch

from job.data.load import load_batches
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
