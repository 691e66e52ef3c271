"""Kubernetes objects: strict schemas of several versions, what schemas miss, determinism, and the rendered folder."""

import copy
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from conftest import ROOT, job
from job.cluster.manifests import PERMANENT, dns_name, to_yaml, trial_jobs
from job.cluster.options import ClusterOptions, canonical
from job.errors import JobError
from job.folder.grid import parse_grid
from job.trial import Trial, trajectories

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
OPTIONS = ClusterOptions(image="registry.example/trialgrid@sha256:" + "0" * 64)
STUDY = ROOT / "k8s" / "sweeps" / "study"
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
Objects = list[dict[str, Any]]


def jobs(trials: list[Trial], options: ClusterOptions = OPTIONS, sweep: str = "s3://bucket/sweeps/study") -> Objects:
    return trial_jobs(sweep, [[trial] for trial in trials], options, {})


def one(**settings: Any) -> dict[str, Any]:
    return jobs([Trial(**settings)])[0]


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
    """The study's sweep with one of the components."""

    def build(name: str) -> Objects:
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        path = tmp_path / "k8s" / "sweeps" / "study" / "kustomization.yaml"
        text = path.read_text()
        assert f"# - ../../components/{name.split(',', maxsplit=1)[0]} " in text
        path.write_text(text.replace("components: []", f"components: [../../components/{name}]"))
        return kustomized(path.parent)

    return build


def pods(objects: Objects) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each object that makes pods, its pod template, and its container."""
    for found in objects:
        if "template" in found.get("spec", {}):
            template = found["spec"]["template"]
            for container in template["spec"]["containers"]:
                yield found, template, container


def check_objects(objects: Objects) -> None:
    """Every assertion that holds for whatever this project gives to a cluster."""
    names = [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)
        assert DNS_LABEL.fullmatch(item["metadata"]["name"]), item["metadata"]["name"]
        labels = item["metadata"].get("labels", {})
        assert labels["app.kubernetes.io/name"] == "trialgrid" and labels["app.kubernetes.io/managed-by"] == "trialgrid"
        assert all(isinstance(value, str) and LABEL_VALUE.fullmatch(value) for value in labels.values())
        assert item["kind"] != "Secret" and "AKIA" not in str(item)
    for item, template, container in pods(objects):
        check_pod(template, container)
        check_selectors(objects, item, template)
        if item["kind"] == "Job":
            check_job(item, container)


def check_pod(template: dict[str, Any], container: dict[str, Any]) -> None:
    """Restricted pod security, no rights in the cluster, quantities as the server writes them, volumes that exist."""
    spec = template["spec"]
    assert spec["automountServiceAccountToken"] is False
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] == 10001 and security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    resources = container["resources"]
    assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys() and "memory" in resources["limits"]
    sizes = [volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume]
    for quantity in [*resources["requests"].values(), *resources["limits"].values(), *sizes]:
        assert isinstance(quantity, str) and canonical(quantity) == quantity
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
    for entry in container["env"]:
        if "SECRET" in entry["name"] or "KEY" in entry["name"] or "TOKEN" in entry["name"]:
            assert entry["valueFrom"]["secretKeyRef"]["name"] == "trialgrid-s3"
    for arg in container["args"]:
        assert isinstance(arg, str)


def check_selectors(objects: Objects, item: dict[str, Any], template: dict[str, Any]) -> None:
    """A selector finds its pods, and each service a pod's named port."""
    labels = template["metadata"]["labels"]
    if item["kind"] == "Deployment":
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in objects:
        if service["kind"] == "Service" and service["metadata"]["name"] == item["metadata"]["name"]:
            assert service["spec"]["selector"].items() <= labels.items()
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def check_job(item: dict[str, Any], container: dict[str, Any]) -> None:
    """How a Job ends, is tried again, and cleans up after itself."""
    spec = item["spec"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and spec["podReplacementPolicy"] == "Failed"
    assert spec["backoffLimit"] > 3 and spec["ttlSecondsAfterFinished"] > 0 and spec["activeDeadlineSeconds"] > 0
    ignore, stopped, permanent = spec["podFailurePolicy"]["rules"]
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    for rule, action, values in ((stopped, "Ignore", [143]), (permanent, "FailJob", PERMANENT)):
        assert rule == {"action": action, "onExitCodes": {"containerName": container["name"], "operator": "In", "values": values}}
    annotations = spec["template"]["metadata"].get("annotations", {})
    # What loses nothing when it is moved keeps no machine from being given back.
    wanted = {} if container["name"] == "gather" else {
        "karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert annotations == wanted
    paths = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in container["env"]
             if "fieldRef" in entry.get("valueFrom", {})}
    assert paths == {"POD_NAME": "metadata.name", "NODE_NAME": "spec.nodeName"}
    if container["name"] == "trial":
        asks_for_gpu = any("/" in name for name in container["resources"]["limits"])
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert env["TRIALGRID_DEVICE"] == ("cuda" if asks_for_gpu else "cpu")
        assert ("NVIDIA_VISIBLE_DEVICES" in env) != asks_for_gpu
        assert len(item["metadata"]["name"]) <= 63 and pod["terminationGracePeriodSeconds"] >= 120
        assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_permanent_exit_codes_are_those_that_trying_again_cannot_mend() -> None:
    kinds: list[type[JobError]] = [JobError, *JobError.__subclasses__()]
    codes = {kind.exit_code for kind in kinds} | {2}
    assert sorted(PERMANENT) == [2, 65, 66, 70, 77, 78] == sorted(codes - {71, 75, 143})


@pytest.mark.parametrize("spoil", [
    lambda item: item["spec"].update(backofLimit=3),
    lambda item: item["spec"]["template"]["spec"].update(restartPolicy="OnFailure"),
    lambda item: item["spec"].pop("template"), lambda item: item["metadata"].update(name="Trial_1"),
    lambda item: item["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": 1}),
    lambda item: item["spec"]["template"]["spec"]["volumes"].pop(),
    lambda item: item["spec"]["template"]["spec"]["containers"][0]["args"].append(1e-5)])
def test_checks_of_these_tests_see_a_spoilt_job(spoil: Callable[[dict[str, Any]], Any]) -> None:
    item = copy.deepcopy(one())
    spoil(item)
    with pytest.raises((AssertionError, KeyError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        check_objects([item])


def test_every_trial_of_a_grid_is_a_job_that_every_version_accepts() -> None:
    odd = [Trial(trial="A.b_C-" + "x" * 34, lr=2.5e-5, epochs=1_000_000), Trial(trial="1e05", lr=1e-5, weights="s3://b/w.pt"),
           Trial(trial="no", freeze=True), Trial(trial="2", model="mlp", weights="none", hidden="10-5", batch_norm=True)]
    check_objects(jobs([*parse_grid((STUDY / "grid.csv").read_text()), *odd]))
    cpu = ClusterOptions(image="x", gpu_resource="none", memory="1024Mi", cpu="0.5", namespace="mine", name="a" * 62 + "b",
                         runtime_class="nvidia")
    found = jobs(odd, cpu)
    check_objects(found)
    assert all("tolerations" not in item["spec"]["template"]["spec"] for item in found)
    resources = found[0]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "10Gi"}, "limits": {"memory": "1Gi"}}


def test_text_that_readers_could_take_for_a_number_or_a_truth_is_quoted() -> None:
    """kubectl reads 1e-05 as a number; a strict server then refuses it among the arguments."""
    settings: dict[str, Any] = {"trial": "1e05", "lr": 1e-5, "epochs": 10, "weights": "on"}
    text = to_yaml([one(**settings)])
    args = re.findall(r"^        - (.*)$", text.split("args:")[1].split("envFrom")[0], re.MULTILINE)
    assert [arg.strip("\"'") for arg in args] == ["train", "s3://bucket/sweeps/study", "--trial", "1e05", "--lr", "1e-05",
                                                   "--epochs", "10", "--weights", "on"]
    assert all(arg[0] in "\"'" for arg in args if re.match(r"[\"']?([\d.+-]|on$)", arg))
    assert yaml.safe_load(text) == one(**settings)


def test_same_trial_is_the_same_job_and_a_changed_one_another() -> None:
    name = one(lr=0.1)["metadata"]["name"]
    assert one(lr=0.1) == one(lr=0.1) and name.startswith("study-t1-lr1e-01-ep025-")
    others = [one(lr=0.2), one(lr=0.1, momentum=0.8), one(lr=0.1, trial="2"),
              jobs([Trial(lr=0.1)], ClusterOptions(image="y"))[0], jobs([Trial(lr=0.1)], sweep="s3://other/study")[0]]
    assert len({name, *(item["metadata"]["name"] for item in others)}) == 6
    assert jobs([Trial(lr=0.1)], ClusterOptions(image=OPTIONS.image, namespace="n"))[0]["metadata"]["name"] == name


def test_settings_on_the_command_line_of_a_job_make_the_trial_again(tmp_path: Path) -> None:
    """Every field of Trial travels through the arguments, and a line of the grid that says otherwise is refused."""
    trial = Trial(trial="x", lr=3e-7, epochs=3, model="mlp", weights="none", batch_norm=True, dropout=0.1, optimizer="adam",
                  stop_monitor="val_loss", stop_patience=2, seed=7)
    args = jobs([trial])[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:2] == ["train", "s3://bucket/sweeps/study"]
    args[1] = str(tmp_path)
    (tmp_path / "grid.csv").write_text("trial,lr\nx,0.5\n")
    done = job(*args)
    assert done.code == 78
    for part in ("lr 0.5, here 3e-07", "epochs 25, here 3", "model 'resnet18', here 'mlp'", "batch_norm False, here True",
                 "stop_patience 0, here 2", "seed 0, here 7", "make manifests anew"):
        assert part in done.err


def test_trajectory_job_names_its_shorter_trials() -> None:
    trials = [Trial(trial=str(i), lr=lr, epochs=epochs, schedule=schedule) for i, (lr, epochs, schedule) in enumerate(
        [(0.1, 5, "step"), (0.01, 90, "step"), (0.01, 15, "step"), (0.01, 20, "cosine"), (0.01, 25, "cosine"), (0.01, 20, "step")])]
    groups = trajectories(trials)
    assert [[trial.trial for trial in group] for group in groups] == [["0"], ["2", "5", "1"], ["3"], ["4"]]
    found = trial_jobs("s3://b/s", groups, OPTIONS, {"positive": "phone"})
    check_objects(found)
    args = found[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["train", "s3://b/s", "--trial", "1", "--lr", "0.01", "--epochs", "90", "--shorter", "2=15", "--shorter", "5=20",
                    "--positive", "phone"]


@pytest.mark.parametrize(("quantity", "expected"), [
    ("4", "4"), ("4000m", "4"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000", "1k"), ("16Gi", "16Gi"),
    ("0.1", "100m"), ("2048", "2048")])
def test_quantities_are_written_as_the_server_writes_them_back(quantity: str, expected: str) -> None:
    assert canonical(quantity) == expected


@pytest.mark.parametrize(("args", "part"), [
    (("--image", ""), "--image is ''"), (("--image", "x", "--cpu", "many"), "--cpu is 'many'"),
    (("--image", "x", "--memory", "0"), "--memory is '0'"), (("--image", "x", "--gpu-resource", "gpu"), "--gpu-resource is 'gpu'"),
    (("--image", "x", "--name", "Study"), "--name is 'Study'"), (("--image", "x", "--positive", "p", "--val", "2"), "--val is 2")])
def test_bad_options_of_manifests_exit_78_and_are_named(args: tuple[str, ...], part: str) -> None:
    done = job("manifests", "s3://b/s", "--grid", STUDY / "grid.csv", *args)
    assert done.code == 78 and part in done.err and not done.out


def test_sweep_address_from_a_variable_needs_a_name() -> None:
    done = job("manifests", "$(SWEEP)", "--grid", STUDY / "grid.csv", "--image", "x")
    assert done.code == 78 and "--name is needed" in done.err
    assert dns_name("--Ünï_1.") == "n-1"


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
    assert kinds == ["ConfigMap"] * 2 + ["Deployment"] + ["Job"] * 10 + ["Namespace", "Service", "ServiceAccount"]
    assert {item["metadata"].get("namespace", "trialgrid") for item in study} == {"trialgrid"}
    config = {item["metadata"]["name"]: item["data"] for item in study if item["kind"] == "ConfigMap"}
    assert config["trialgrid-grid"]["grid.csv"] == (STUDY / "grid.csv").read_text()
    for item, _, container in pods(study):
        assert container["image"] == "registry.example/trialgrid:0.1.0"
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        assert used and used <= config["trialgrid"].keys(), item["metadata"]["name"]
        images = [entry["value"] for entry in container["env"] if entry["name"] == "IMAGE"]
        assert images == ([container["image"]] if container["name"] == "trial" else [])


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


@pytest.mark.parametrize("args", [("/data/sweep", "--name", "x"), ("s3://b/s", "--images", "images")])
def test_folders_that_no_pod_can_reach_are_refused(args: tuple[str, ...]) -> None:
    done = job("manifests", *args, "--image", "x", "--grid", STUDY / "grid.csv")
    assert done.code == 78 and "no pod can reach" in done.err


def gpu_limits(objects: Objects) -> set[tuple[str, ...]]:
    return {tuple(key for key in container["resources"]["limits"] if key != "memory")
            for _, _, container in pods(objects) if container["name"] == "trial"}


def test_component_gpu_asks_for_a_part_of_one(with_component: Callable[[str], Objects]) -> None:
    objects = with_component("gpu")
    check_objects(objects)
    assert gpu_limits(objects) == {("nvidia.com/mig-1g.10gb",)} and gpu_limits(kustomized(STUDY)) == {("nvidia.com/gpu",)}


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
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= server["spec"]["template"]["metadata"]["labels"].items()
