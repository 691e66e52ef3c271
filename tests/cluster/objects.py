"""The checks that hold for every Kubernetes object of this project: strict schemas, and what schemas miss."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from job.cluster.manifests import PERMANENT
from job.cluster.options import canonical
from server_side import not_spelled_out
from support import ROOT

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
STUDY = ROOT / "k8s" / "sweeps" / "study"
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
Objects = list[dict[str, Any]]


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
        # Otherwise `kubectl apply --server-side` after a plain one conflicts.
        assert not_spelled_out(item, VERSIONS[-1]) == set()
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
    assert security["runAsNonRoot"] and security["runAsUser"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
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
        codes = {"containerName": container["name"], "operator": "In", "values": values}
        assert rule == {"action": action, "onExitCodes": codes}
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
