"""The Jobs of trials: valid in every version of Kubernetes, deterministic, and exact in their arguments."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from job.cluster.manifests import PERMANENT, to_yaml, trial_jobs
from job.cluster.options import ClusterOptions
from job.errors import JobError
from job.folder.grid import parse_grid
from job.folder.groups import trajectories
from job.trial import Trial
from objects import STUDY, Objects, check_objects
from support import job

OPTIONS = ClusterOptions(image="registry.example/trialgrid@sha256:" + "0" * 64)


def jobs(trials: list[Trial], options: ClusterOptions = OPTIONS, sweep: str = "s3://bucket/sweeps/study") -> Objects:
    return trial_jobs(sweep, [[trial] for trial in trials], options, {})


def one(**settings: Any) -> dict[str, Any]:
    return jobs([Trial(**settings)])[0]


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
    lambda item: item["spec"]["template"]["spec"]["containers"][0]["args"].append(1e-5),
    lambda item: next(entry for entry in item["spec"]["template"]["spec"]["containers"][0]["env"]
                      if entry["name"] == "POD_NAME")["valueFrom"]["fieldRef"].pop("apiVersion"),
    lambda item: next(entry for entry in item["spec"]["template"]["spec"]["containers"][0]["env"]
                      if entry["name"] == "OMP_NUM_THREADS")["valueFrom"]["resourceFieldRef"].pop("divisor")])
def test_checks_of_these_tests_see_a_spoilt_job(spoil: Callable[[dict[str, Any]], Any]) -> None:
    item = copy.deepcopy(one())
    spoil(item)
    with pytest.raises((AssertionError, KeyError, kubernetes_validate.ValidationError,
                        kubernetes_validate.SchemaNotFoundError)):
        check_objects([item])


def test_every_trial_of_a_grid_is_a_job_that_every_version_accepts() -> None:
    odd = [Trial(trial="A.b_C-" + "x" * 34, lr=2.5e-5, epochs=1_000_000),
           Trial(trial="1e05", lr=1e-5, weights="s3://b/w.pt"), Trial(trial="no", freeze=True),
           Trial(trial="2", model="mlp", weights="none", hidden="10-5", batch_norm=True)]
    check_objects(jobs([*parse_grid((STUDY / "grid.csv").read_text()), *odd]))
    cpu = ClusterOptions(image="x", gpu_resource="none", memory="1024Mi", cpu="0.5", namespace="mine",
                         name="a" * 62 + "b", runtime_class="nvidia")
    found = jobs(odd, cpu)
    check_objects(found)
    assert all("tolerations" not in item["spec"]["template"]["spec"] for item in found)
    resources = found[0]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "10Gi"},
                         "limits": {"memory": "1Gi"}}


def test_limits_of_processors_and_disk_are_off_unless_asked_for() -> None:
    assert one()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": "12Gi", "nvidia.com/gpu": "1"}
    options = ClusterOptions(image="x", gpu_resource="none", cpu_limit="4.5", disk_limit="12Gi")
    found = jobs([Trial()], options)
    check_objects(found)
    assert found[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": "12Gi", "cpu": "4500m", "ephemeral-storage": "12Gi"}


def test_sweep_that_a_variable_names_is_not_in_an_annotation_that_nobody_fills() -> None:
    assert one()["metadata"]["annotations"] == {"trialgrid/sweep": "s3://bucket/sweeps/study"}
    found = jobs([Trial()], ClusterOptions(image="trialgrid", name="study"), "$(SWEEP)")
    assert "annotations" not in found[0]["metadata"]


def test_text_that_readers_could_take_for_a_number_or_a_truth_is_quoted() -> None:
    """kubectl reads 1e-05 as a number; a strict server then refuses it among the arguments."""
    settings: dict[str, Any] = {"trial": "1e05", "lr": 1e-5, "epochs": 10, "weights": "on"}
    text = to_yaml([one(**settings)])
    args = re.findall(r"^        - (.*)$", text.split("args:")[1].split("envFrom")[0], re.MULTILINE)
    assert [arg.strip("\"'") for arg in args] == [
        "train", "s3://bucket/sweeps/study", "--trial", "1e05", "--lr", "1e-05", "--epochs", "10", "--weights", "on"]
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
    trial = Trial(trial="x", lr=3e-7, epochs=3, model="mlp", weights="none", batch_norm=True, dropout=0.1,
                  optimizer="adam", stop_monitor="val_loss", stop_patience=2, seed=7)
    args = jobs([trial])[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:2] == ["train", "s3://bucket/sweeps/study"]
    args[1] = str(tmp_path)
    (tmp_path / "grid.csv").write_text("trial,lr\nx,0.5\n")
    done = job(*args)
    assert done.code == 78
    for part in ("lr 0.5, here 3e-07", "epochs 25, here 3", "model 'resnet18', here 'mlp'",
                 "batch_norm False, here True", "stop_patience 0, here 2", "seed 0, here 7",
                 "make the manifests again"):
        assert part in done.err


def test_trajectory_job_names_its_shorter_trials() -> None:
    settings = [(0.1, 5, "step"), (0.01, 90, "step"), (0.01, 15, "step"), (0.01, 20, "cosine"), (0.01, 25, "cosine"),
                (0.01, 20, "step")]
    trials = [Trial(trial=str(i), lr=lr, epochs=epochs, schedule=schedule)
              for i, (lr, epochs, schedule) in enumerate(settings)]
    groups = trajectories(trials)
    assert [[trial.trial for trial in group] for group in groups] == [["0"], ["2", "5", "1"], ["3"], ["4"]]
    found = trial_jobs("s3://b/s", groups, OPTIONS, {"positive": "phone"})
    check_objects(found)
    args = found[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["train", "s3://b/s", "--trial", "1", "--lr", "0.01", "--epochs", "90", "--shorter", "2=15",
                    "--shorter", "5=20", "--positive", "phone"]
