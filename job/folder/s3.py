"""A folder in S3, or in another store that speaks S3."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from job.errors import BadConfig, MissingInput, TryAgain
from job.folder.s3_calls import Changed, Unconditional, ask

MD5_KEY = "md5"
MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
MOST_READS = 4
# Writers of one object that cross each other.
MOST_RACES = 20
COPY_BYTES = 1 << 20

Body = TypeVar("Body")


def md5() -> Any:
    """Return a new MD5: it finds damage on the way, as S3's own ETag does, and is no protection against anybody."""
    return hashlib.md5(usedforsecurity=False)


class S3Folder:
    """A prefix in a bucket. The store itself makes a PUT whole or absent.

    Every object carries its MD5 as metadata, and a read that does not match it is repeated. Every write names the
    version that it replaces, so a PUT that the network delivers late, after later ones, is refused by the store.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        # The version of each object that this process wrote last.
        self._versions: dict[str, str] = {}
        # Of encrypted objects the ETag is no MD5.
        self._has_md5_etags = True

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}".lstrip("/")}

    def _ask(self, name: str, operation: str, **arguments: Any) -> Any:
        place = self._at(name)
        try:
            return ask(f"{self.uri}/{name}", lambda client: getattr(client, operation)(**place, **arguments))
        except MissingInput as error:
            # The version that the request names is gone.
            if "IfMatch" in arguments and str(error).endswith("no such object"):
                raise Changed(str(error)) from None
            raise

    def read(self, name: str) -> bytes:
        def receive(body: Any) -> tuple[bytes, str]:
            data = bytes(body.read())
            return data, md5_of(data)

        return self._read_surely(name, receive)

    def fetch(self, name: str, path: Path) -> None:
        def receive(body: Any) -> tuple[None, str]:
            found = md5()
            with path.open("wb") as file:
                while part := body.read(COPY_BYTES):
                    file.write(part)
                    found.update(part)
            return None, found.hexdigest()

        self._read_surely(name, receive)

    def read_part(self, name: str, start: int, num_bytes: int) -> bytes:
        def get(client: Any) -> bytes:
            asked = f"bytes={start}-{start + num_bytes - 1}"
            # A store that does not know ranges sends all of it: no more than the part is taken.
            return bytes(client.get_object(**self._at(name), Range=asked)["Body"].read(num_bytes))

        return ask(f"{self.uri}/{name}", get)

    def _read_surely(self, name: str, receive: Callable[[Any], tuple[Body, str]]) -> Body:
        """Return an object once its bytes match its MD5, or once two reads in a row give the same bytes."""
        def get(client: Any) -> tuple[Body, str, dict[str, Any]]:
            answer = client.get_object(**self._at(name))
            return *receive(answer["Body"]), answer

        before = ""
        for _ in range(MOST_READS):
            body, found, answer = ask(f"{self.uri}/{name}", get)
            if found in (before, self._md5_in(answer, found)):
                # The object itself differs from its MD5. Without metadata, that is how an encrypted one looks.
                if found == before and MD5_KEY not in answer.get("Metadata", {}):
                    self._has_md5_etags = False
                return body
            before = found
        raise TryAgain(f"{self.uri}/{name}: {MOST_READS} reads gave different bytes; start again later")

    def _md5_in(self, answer: dict[str, Any], otherwise: str) -> str:
        """Return the MD5 that an answer names, or `otherwise`."""
        if named := answer.get("Metadata", {}).get(MD5_KEY):
            return str(named)
        etag = MD5_ETAG.fullmatch(answer.get("ETag", "")) if self._has_md5_etags else None
        return etag[1] if etag else otherwise

    def write(self, name: str, data: bytes) -> None:
        version = self._versions.get(name, "")
        try:
            for _ in range(MOST_RACES):
                try:
                    self._put(name, data, **({"IfMatch": version} if version else {"IfNoneMatch": "*"}))
                    return
                except Changed:
                    version, found = self._version_now(name)
                    if found == md5_of(data):
                        # An earlier try of this very write, whose answer was lost.
                        self._versions[name] = version
                        return
        except Unconditional:
            self._put(name, data)
            return
        raise TryAgain(f"{self.uri}/{name}: other processes write it all the time; start again later")

    def _put(self, name: str, data: bytes, **condition: str) -> None:
        found = md5_of(data)
        answer = self._ask(name, "put_object", Body=data, Metadata={MD5_KEY: found},
                           ContentMD5=base64.b64encode(bytes.fromhex(found)).decode(), **condition)
        self._versions[name] = str(answer.get("ETag", ""))

    def _version_now(self, name: str) -> tuple[str, str]:
        """Return the object's ETag and MD5; both '' if it does not exist."""
        try:
            head = self._ask(name, "head_object")
        except MissingInput:
            return "", ""
        return str(head.get("ETag", "")), self._md5_in(head, "")

    def write_once(self, name: str, data: bytes) -> bool:
        try:
            self._put(name, data, IfNoneMatch="*")
        except Changed:
            return False
        except Unconditional as error:
            raise BadConfig(f"{error}. Without conditional writes (PUT with If-None-Match: *) two processes could "
                            "train the same trial; use a storage that supports them") from None
        return True

    def exists(self, name: str) -> bool:
        try:
            self._ask(name, "head_object")
        except MissingInput:
            return False
        return True

    def _list(self, prefix: str, more: dict[str, str]) -> dict[str, Any]:
        asked = {"Bucket": self.bucket, "Prefix": f"{self.prefix}/{prefix}".lstrip("/"), **more}
        return dict(ask(f"{self.uri}/{prefix}", lambda client: client.list_objects_v2(**asked)))

    def names(self, prefix: str = "") -> Iterator[str]:
        base, token = f"{self.prefix}/" if self.prefix else "", ""
        while True:
            page = self._list(prefix, {"ContinuationToken": token} if token else {})
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield item["Key"][len(base):]
            token = page.get("NextContinuationToken", "") if page.get("IsTruncated") else ""
            if not token:
                return

    def delete(self, name: str) -> None:
        self._versions.pop(name, None)
        for _ in range(MOST_RACES):
            version, _md5 = self._version_now(name)
            if not version:
                return
            try:
                self._ask(name, "delete_object", IfMatch=version)
                return
            except Changed:
                continue
            except Unconditional:
                self._ask(name, "delete_object")
                return
        raise TryAgain(f"{self.uri}/{name}: other processes write it all the time; start again later")


def md5_of(data: bytes) -> str:
    """Return the MD5 of some bytes, in hexadecimal."""
    found = md5()
    found.update(data)
    return str(found.hexdigest())
