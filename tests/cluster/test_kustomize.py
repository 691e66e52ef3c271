"""The folder k8s/: base, study and components, as kubectl renders them."""

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from objects import STUDY, Objects, check_objects, pods
from support import ROOT, job


@cache
def kustomized(folder: Path) -> Objects:
    """What `kubectl kustomize` makes of a folder; the test is skipped, saying so, where there is no kubectl."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture
def with_component(tmp_path: Path) -> Callable[[str], Objects]:
    """The study's sweep with one of the components, or with several, separated by `, ../../components/`."""

    def build(name: str) -> Objects:
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        path = tmp_path / "k8s" / "sweeps" / "study" / "kustomization.yaml"
        text = path.read_text()
        assert f"# - ../../components/{name.split(',', maxsplit=1)[0]} " in text
        path.write_text(text.replace("components: []", f"components: [../../components/{name}]"))
        return kustomized(path.parent)

    return build


def test_rendered_study_is_what_the_command_in_its_kustomization_prints() -> None:
    comment = (STUDY / "kustomization.yaml").read_text().replace("\\\n#", "")
    command = re.search(r"^#\s+job (manifests .*)$", comment, re.MULTILINE)
    assert command
    args = [part.strip("'") for part in command[1].partition(" > ")[0].split()]
    assert job(*args).out == (STUDY / "trials.yaml").read_text()


def test_kustomize_base_and_study_render_and_pass_every_check() -> None:
    check_objects(kustomized(ROOT / "k8s" / "namespace"))
    check_objects(kustomized(ROOT / "k8s" / "base"))
    study = kustomized(STUDY)
    check_objects(study)
    kinds = sorted(item["kind"] for item in study)
    assert kinds == ["ConfigMap"] * 3 + ["Deployment"] + ["Job"] * 10 + ["Namespace", "Service", "ServiceAccount"]
    assert {item["metadata"].get("namespace", "trialgrid") for item in study} == {"trialgrid"}
    config = {item["metadata"]["name"]: item["data"] for item in study if item["kind"] == "ConfigMap"}
    assert config["trialgrid-grid"]["grid.csv"] == (STUDY / "grid.csv").read_text()
    for item, _, container in pods(study):
        assert container["image"] == "registry.example/trialgrid:0.1.0"
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert used and used <= config["trialgrid-sweep"].keys(), item["metadata"]["name"]
        images = [entry["value"] for entry in container["env"] if entry["name"] == "IMAGE"]
        assert images == ([container["image"]] if container["name"] == "trial" else [])


def test_namespace_applied_again_takes_nothing_from_a_sweep(with_component: Callable[[str], Objects]) -> None:
    """What k8s/namespace makes, a sweep's folder makes exactly so: no object has two owners that differ."""
    for objects in (kustomized(STUDY), with_component("s3")):
        for item in kustomized(ROOT / "k8s" / "namespace"):
            assert item in objects, item["metadata"]["name"]


def test_jobs_are_annotated_with_the_address_of_the_sweep() -> None:
    study = kustomized(STUDY)
    address = next(item["data"]["SWEEP"] for item in study if "SWEEP" in item.get("data", {}))
    found = {item["metadata"]["annotations"]["trialgrid/sweep"] for item, _, container in pods(study)
             if container["name"] == "trial"}
    assert found == {address} and not address.startswith("$")
    assert not any("$(" in str(item["metadata"]) for item in study)


def test_component_limits_gives_every_other_pod_the_limits_that_a_quota_may_ask_for(
        with_component: Callable[[str], Objects]) -> None:
    objects = with_component("s3, ../../components/limits")
    check_objects(objects)
    for _, _, container in pods(objects):
        if container["name"] != "trial":
            assert {"cpu", "memory", "ephemeral-storage"} == container["resources"]["limits"].keys(), container["name"]


def test_study_prepares_and_trains_the_same_images() -> None:
    """Whichever Job comes first makes the pack, so all must ask for the same one."""
    asked = set()
    for _, _, container in pods(kustomized(STUDY)):
        args = container["args"]
        if args[0] in ("train", "prepare"):
            asked.add((args[args.index("--positive") + 1], "$(IMAGES)" in args))
    assert asked == {("cellphone", True)}


def test_components_may_be_combined(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("cpu ../../components/spot ../../components/kueue ../../components/s3".replace(" ", ", "))
    check_objects(objects)
    assert gpu_limits(objects) == {()}


def gpu_limits(objects: Objects) -> set[tuple[str, ...]]:
    return {tuple(key for key in container["resources"]["limits"] if key != "memory")
            for _, _, container in pods(objects) if container["name"] == "trial"}


def test_component_gpu_asks_for_a_part_of_one(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("gpu")
    check_objects(objects)
    assert gpu_limits(objects) == {("nvidia.com/mig-1g.10gb",)}
    assert gpu_limits(kustomized(STUDY)) == {("nvidia.com/gpu",)}


def test_component_cpu_asks_for_none(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("cpu")
    check_objects(objects)
    assert gpu_limits(objects) == {()}


def test_component_kueue_queues_every_job(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("kueue")
    check_objects(objects)
    queues = {item["metadata"]["name"].partition("-t")[0]: item["metadata"]["labels"].get("kueue.x-k8s.io/queue-name")
              for item in objects if item["kind"] == "Job"}
    assert queues == {"study": "trialgrid", "prepare": "trialgrid", "gather": None}


def test_component_spot_tolerates_spot_machines_and_still_gpus(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("spot")
    check_objects(objects)
    trials = [template["spec"] for item, template, container in pods(objects) if container["name"] == "trial"]
    assert len(trials) == 8
    for spec in trials:
        assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= {item["key"] for item in spec["tolerations"]}


def test_component_s3_is_a_server_whose_key_is_the_trials(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("s3")
    check_objects(objects)
    config = next(item["data"] for item in objects if item["kind"] == "ConfigMap" and "SWEEP" in item["data"])
    service = next(item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == "s3")
    assert config["AWS_ENDPOINT_URL"] == f"http://s3:{service['spec']['ports'][0]['port']}"
    policy = next(item for item in objects if item["kind"] == "NetworkPolicy")
    server = next(item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "s3")
    selected, labels = policy["spec"]["podSelector"]["matchLabels"], server["spec"]["template"]["metadata"]["labels"]
    assert selected.items() <= labels.items()
