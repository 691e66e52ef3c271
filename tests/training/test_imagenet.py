"""ImageNet weights for machines without internet: a folder that `job weights` fills and TRIALGRID_WEIGHTS names.

What is not shown, because torchvision's files cannot be had here: that a true file passes from the folder into a model
by TRIALGRID_WEIGHTS. Its parts are: the name asked for, the check of the hash, and the loading of published names
(test_models.py).
"""

import hashlib
import io
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from job.errors import BadData, MissingInput
from job.folder.storage import open_folder
from job.training.imagenet import check_hash, store_weights, weights_file, weights_url
from job.training.weights import parse_weights
from support import S3, Grid, job

BLOCKED = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file of weights with its hash in its name, as torchvision publishes them."""
    buffer = io.BytesIO()
    torch.save(resnet18(num_classes=1000).state_dict(), buffer)
    path = tmp_path / "published" / f"resnet18-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    return path


def test_weights_are_stored_once_and_whole(published: Path, tmp_path: Path) -> None:
    target, kept = open_folder(str(tmp_path / "weights")), tmp_path / "weights" / published.name
    assert store_weights(published.as_uri(), target) and kept.read_bytes() == published.read_bytes()
    assert "fc.weight" in parse_weights(target.read(published.name), published.name)
    at = kept.stat().st_mtime_ns
    assert not store_weights(published.as_uri(), target) and kept.stat().st_mtime_ns == at
    kept.write_bytes(kept.read_bytes()[:-1])
    assert store_weights(published.as_uri(), target) and kept.read_bytes() == published.read_bytes()


def test_file_that_is_not_what_its_name_says_is_stored_nowhere(published: Path, tmp_path: Path) -> None:
    data = bytearray(published.read_bytes())
    data[len(data) // 2] ^= 1
    published.write_bytes(data)
    with pytest.raises(BadData, match="SHA-256"):
        store_weights(published.as_uri(), open_folder(str(tmp_path / "weights")))
    assert not (tmp_path / "weights").exists()
    with pytest.raises(BadData, match="SHA-256"):
        check_hash(b"", "no-hash.pth", "no-hash.pth")


def test_file_that_cannot_be_fetched_says_where_to_run_the_command(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.training.imagenet.DOWNLOAD_PAUSES_SECONDS", ())
    with pytest.raises(MissingInput, match="on a machine with internet"):
        store_weights((tmp_path / "absent-00000000.pth").as_uri(), open_folder(str(tmp_path / "weights")))


def test_job_weights_names_what_it_cannot_fetch_and_refuses_other_names(tmp_path: Path) -> None:
    done = job("weights", "resnet50", "vit_b_16", tmp_path / "w", **BLOCKED)
    assert done.code == 66 and "resnet50-11ad3fa6.pth cannot be downloaded" in done.err
    for name, why in (("mlp", "has no such weights"), ("resnet5", "do you mean resnet50"), ("googlenet", "aux")):
        done = job("weights", name, tmp_path / "w")
        assert done.code == 78 and why in done.err
    for models in (["resnet18"], ["resnet50", "resnet18"]):
        done = job("weights", *models)
        assert done.code == 2 and "'resnet18' is the last argument: name the models first, then the folder" in done.err
    assert job("weights", "resnet18", "").code == 78


def test_imagenet_comes_from_the_folder_of_the_variable_and_its_hash_is_checked(
        shapes: Path, make_grid: Grid, s3: S3, tmp_path: Path) -> None:
    """In a bucket, as a cluster has it; the file lies there, but is not torchvision's."""
    grid = make_grid(lr=[0.01], epochs=[1], model=["mobilenet_v3_small"], weights=["imagenet"])
    name, sweep = weights_file(weights_url("mobilenet_v3_small")), tmp_path / "sweep"
    args, env = ("sweep", "--images", shapes, "--grid", grid, sweep), {**s3.env, "TRIALGRID_PATIENCE": "20"}
    absent = job(*args, **env, TRIALGRID_WEIGHTS="s3://bucket/weights")
    assert absent.code == 66 and f"s3://bucket/weights/{name}: TRIALGRID_WEIGHTS names this folder" in absent.err
    assert "job weights mobilenet_v3_small s3://bucket/weights" in absent.err
    s3.client().put_object(Bucket="bucket", Key=f"weights/{name}", Body=b"other weights")
    wrong = job(*args, **env, TRIALGRID_WEIGHTS="s3://bucket/weights")
    assert wrong.code == 65 and f"{name}: its SHA-256 is not the one in its name" in wrong.err
