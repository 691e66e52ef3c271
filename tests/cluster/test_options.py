"""The options of manifests: quantities as the server writes them, and what is refused."""

import pytest

from job.cluster.manifests import dns_name
from job.cluster.options import canonical
from objects import STUDY
from support import job


@pytest.mark.parametrize(("quantity", "expected"), [
    ("4", "4"), ("4000m", "4"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000", "1k"),
    ("16Gi", "16Gi"), ("0.1", "100m"), ("2048", "2048")])
def test_quantities_are_written_as_the_server_writes_them_back(quantity: str, expected: str) -> None:
    assert canonical(quantity) == expected


@pytest.mark.parametrize(("args", "part"), [
    (("--image", ""), "--image is ''"), (("--image", "x", "--cpu", "many"), "--cpu is 'many'"),
    (("--image", "x", "--memory", "0"), "--memory is '0'"),
    (("--image", "x", "--memory", ""), "--memory is ''"),
    (("--image", "x", "--cpu", "\u0663"), "--cpu is '\u0663'; use a quantity"),
    (("--image", "x", "--tmp", "9Ei"), "--tmp is '9Ei'; use less than 8Ei"),
    (("--image", "x", "--memory", "9" * 5000 + "Gi"), "...; use a quantity"),
    (("--image", "x", "--cpu-limit", "2"), "--cpu-limit is 2, less than the 3 that --cpu requests"),
    (("--image", "x", "--tmp", "20Gi", "--disk-limit", "20G"), "--disk-limit is 20G, less than the 20Gi"),
    (("--image", "x", "--deadline", "9" * 30), "--deadline is 99999999999999999999...; the most is 2147483647"),
    (("--image", "x", "--gpu-resource", "gpu"), "--gpu-resource is 'gpu'"),
    (("--image", "x", "--name", "Study"), "--name is 'Study'"),
    (("--image", "x", "--positive", "p", "--val", "2"), "--val is 2")])
def test_bad_options_of_manifests_exit_78_and_are_named(args: tuple[str, ...], part: str) -> None:
    done = job("manifests", "s3://b/s", "--grid", STUDY / "grid.csv", *args)
    assert done.code == 78 and part in done.err and not done.out


def test_image_without_a_digest_is_warned_about_unless_kustomize_names_it() -> None:
    grid = ("--grid", STUDY / "grid.csv", "--image", "trialgrid")
    assert "has no digest" in job("manifests", "s3://b/s", *grid).err
    for_kustomize = job("manifests", "$(SWEEP)", "--name", "x", *grid)
    assert for_kustomize.code == 0 and not for_kustomize.err


@pytest.mark.parametrize("args", [("/data/sweep", "--name", "x"), ("s3://b/s", "--images", "images")])
def test_folders_that_no_pod_can_reach_are_refused(args: tuple[str, ...]) -> None:
    done = job("manifests", *args, "--image", "x", "--grid", STUDY / "grid.csv")
    assert done.code == 78 and "no pod can reach" in done.err


def test_sweep_address_from_a_variable_needs_a_name() -> None:
    done = job("manifests", "$(SWEEP)", "--grid", STUDY / "grid.csv", "--image", "x")
    assert done.code == 78 and "--name is needed" in done.err
    assert dns_name("--Ünï_1.") == "n-1"
