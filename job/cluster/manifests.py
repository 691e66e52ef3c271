"""Trials -> Kubernetes Jobs as plain dicts: a pure function, so the same trials and options give the same text.

The Jobs need Kubernetes 1.31 or later (podFailurePolicy, podReplacementPolicy). Exit codes decide whether a Job runs
again: PERMANENT ones fail it at once, a stop by a signal is not counted, any other counts against BACKOFF_LIMIT.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml

from job.cluster.options import ClusterOptions, canonical
from job.errors import AccessDenied, BadConfig, BadData, JobError, MissingInput, Stopped
from job.trial import Trial, shown

USAGE_EXIT_CODE = 2
PERMANENT_ERRORS = (BadData, MissingInput, JobError, AccessDenied, BadConfig)
PERMANENT = sorted([USAGE_EXIT_CODE, *(kind.exit_code for kind in PERMANENT_ERRORS)])
CONTAINER = "trial"
NAME_LENGTH = 63
GRACE_SECONDS, KEEP_SECONDS, BACKOFF_LIMIT, SHM = 120, 7 * 24 * 3600, 6, "1Gi"
SERVICE_ACCOUNT, SECRET = "trialgrid", "trialgrid-s3"
# Of the namespace and of the sweep in it; of a name that both have, the later one's value holds.
CONFIGS = ("trialgrid", "trialgrid-sweep")
SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                  "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]}}


def trial_jobs(sweep: str, trajectories: Iterable[Sequence[Trial]], options: ClusterOptions,
               image_options: Mapping[str, Any], suffix: str = "", race: bool | None = None) -> list[dict[str, Any]]:
    """Return one Job per trajectory; a trajectory is a sequence of trials, the one with the fewest epochs first.

    sweep: its URI, or $(NAME) of a variable in the ConfigMap. image_options: the ImageOptions to pass on; for others
    the sweep's own or the defaults apply. suffix: the end of the Jobs' names, which keeps Jobs that run again apart
    from those that ran before. race: whether the Jobs say that the sweep races, or that it does not. Raises BadConfig
    if pods cannot reach the sweep, or if no name follows from its URI.
    """
    for uri in filter(None, (sweep, options.images)):
        if not uri.startswith(("s3://", "$(")):
            raise BadConfig(f"{uri}: no pod can reach a folder on this machine; use s3://bucket/folder")
    name = options.name or dns_name(sweep.rstrip("/").rpartition("/")[2])
    if not name or ("$" in sweep and not options.name):
        raise BadConfig(f"--name is needed: the last part of {sweep} gives no name for labels and Jobs")
    how = as_args({"images": options.images, **image_options} if options.images else image_options)
    how += [] if race is None else ["--race" if race else "--no-race"]
    return [trial_job(["train", sweep, *trial_args(trials), *how], name, trials[-1], options, suffix)
            for trials in trajectories]


def trial_job(args: list[str], name: str, longest: Trial, options: ClusterOptions, suffix: str) -> dict[str, Any]:
    """Return one Job; its name ends in a hash of its spec, so that a changed trial is another Job."""
    labels = {"app.kubernetes.io/name": "trialgrid", "app.kubernetes.io/instance": name[:NAME_LENGTH].rstrip("-"),
              "app.kubernetes.io/component": CONTAINER, "app.kubernetes.io/managed-by": "trialgrid",
              "trialgrid/trial": longest.trial}
    spec = job_spec(args, labels, options)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:8]
    ending = f"-{digest}{suffix}"
    title = dns_name(f"{name[:20]}-t{longest.trial}-lr{longest.lr:.0e}-ep{longest.epochs:03d}")
    metadata: dict[str, Any] = {"name": title[:NAME_LENGTH - len(ending)].rstrip("-") + ending}
    metadata |= {"namespace": options.namespace} if options.namespace else {}
    # What a variable stands for, kustomize says.
    metadata |= {"labels": labels} | ({} if "$(" in args[1] else {"annotations": {"trialgrid/sweep": args[1]}})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def dns_name(text: str) -> str:
    """Return `text` in lower case, with each run of other characters than letters and digits as one inner '-'."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def trial_args(trials: Sequence[Trial]) -> list[str]:
    """Return the longest trial's settings that are not defaults, and the shorter trials, as options of `job train`."""
    longest = trials[-1]
    settings = {spec.name: getattr(longest, spec.name) for spec in fields(Trial)
                if spec.name in ("trial", "lr", "epochs") or getattr(longest, spec.name) != spec.default}
    shorter = [part for trial in trials[:-1] for part in ("--shorter", f"{trial.trial}={trial.epochs}")]
    return as_args(settings) + shorter


def as_args(values: Mapping[str, Any]) -> list[str]:
    """Return options as command-line arguments; True becomes an option without a value."""
    return [part for name, value in values.items()
            for part in (f"--{name.replace('_', '-')}", *([] if value is True else [shown(value)]))]


def job_spec(args: list[str], labels: dict[str, str], options: ClusterOptions) -> dict[str, Any]:
    """Return the spec of a Job."""
    exit_codes = {"containerName": CONTAINER, "operator": "In"}
    return {
        "backoffLimit": BACKOFF_LIMIT,
        "activeDeadlineSeconds": options.deadline,
        "ttlSecondsAfterFinished": KEEP_SECONDS,
        # Only after the old pod has ended: of two pods for one trial, one waits for the other.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": {**exit_codes, "values": [Stopped.exit_code]}},
            {"action": "FailJob", "onExitCodes": {**exit_codes, "values": PERMANENT}}]},
        "template": {
            "metadata": {"labels": labels, "annotations": {"karpenter.sh/do-not-disrupt": "true",
                                                           "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}},
            "spec": pod_spec(args, options)},
    }


def pod_spec(args: list[str], options: ClusterOptions) -> dict[str, Any]:
    """Return the pod spec of a Job, which satisfies the Pod Security Standard 'restricted'."""
    limits, tolerations = {"memory": canonical(options.memory)}, []
    limits |= {"cpu": canonical(options.cpu_limit)} if options.cpu_limit else {}
    limits |= {"ephemeral-storage": canonical(options.disk_limit)} if options.disk_limit else {}
    if options.gpu_resource != "none":
        # A string, because the API server writes it back as one.
        limits[options.gpu_resource] = "1"
        taint = "nvidia.com/gpu" if options.gpu_resource.startswith("nvidia.com/") else options.gpu_resource
        tolerations = [{"key": taint, "operator": "Exists", "effect": "NoSchedule"}]
    requests = {"cpu": canonical(options.cpu), "memory": canonical(options.memory),
                "ephemeral-storage": canonical(options.tmp)}
    mounts = {"shm": "/dev/shm", "tmp": "/tmp"}  # noqa: S108 - the pod's own
    container = {
        "name": CONTAINER, "image": options.image, "imagePullPolicy": "IfNotPresent", "args": args,
        "envFrom": [{"configMapRef": {"name": name, "optional": True}} for name in CONFIGS],
        "env": environment(options),
        "resources": {"requests": requests, "limits": limits},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()]}
    return {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS,
        **({"runtimeClassName": options.runtime_class} if options.runtime_class else {}),
        "serviceAccountName": SERVICE_ACCOUNT, "automountServiceAccountToken": False, "enableServiceLinks": False,
        "securityContext": RESTRICTED_POD, **({"tolerations": tolerations} if tolerations else {}),
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHM}},
                    {"name": "tmp", "emptyDir": {"sizeLimit": canonical(options.tmp)}}]}


def environment(options: ClusterOptions) -> list[dict[str, Any]]:
    """Return the variables of a Job's container, spelled out as the API server writes them back.

    Without apiVersion and divisor, which it would add, a server-side apply after a client-side one conflicts.
    """
    # A GPU that is requested and not visible is an error, not a reason to train on the CPU.
    values = {"IMAGE": options.image, "TRIALGRID_DEVICE": "cuda"}
    if options.gpu_resource == "none":
        # Some nodes give every container all GPUs; void hides them.
        values |= {"TRIALGRID_DEVICE": "cpu", "NVIDIA_VISIBLE_DEVICES": "void"}
    sources = {
        # As many threads as the pod has cores, not as many as the node has. A divisor of 0 stands for 1.
        "OMP_NUM_THREADS": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "0"}},
        "POD_NAME": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        "NODE_NAME": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}},
        **{key: {"secretKeyRef": {"name": SECRET, "key": key, "optional": True}} for key in SECRET_KEYS}}
    return [*({"name": name, "value": value} for name, value in values.items()),
            *({"name": name, "valueFrom": source} for name, source in sources.items())]


class Dumper(yaml.SafeDumper):
    """YAML without anchors, and with quotes around each text that a YAML reader could read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Quote a text that begins like a number: YAML 1.2 reads 1e-05 as a number, and PyYAML writes YAML 1.1."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if re.match(r"[\d+.-]", text) else None)


Dumper.add_representer(str, represent_text)


def to_yaml(objects: Iterable[dict[str, Any]]) -> str:
    """Return Kubernetes objects as one YAML stream."""
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, width=130, explicit_start=True)
