"""A proxy before the tests' S3 server that delays, loses, repeats, cuts, changes and refuses what passes through it.

`Fault(what, ...)` says what happens to which requests; `Proxy.log` lists what happened. A fault of a seeded run is
drawn by whoever uses it: the proxy itself draws nothing.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

What = Literal["delay", "drop", "lose", "late", "stale", "short", "cut", "corrupt", "spoil", "status"]
Answer = tuple[int, list[tuple[str, str]], bytes]
MOST_REMEMBERED = 1 << 20
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass
class Fault:
    """What happens to requests of a method whose path and query contain `part`, `times` times, after `skip` of them.

    delay: the request is sent after `seconds`. drop: the connection is closed, nothing is sent. lose: the request is
    sent, and the connection is closed instead of the answer. late: the connection is closed, and the request is sent
    after `seconds`, when the client has gone on. short: the answer's body ends at `where` of its length, and so does
    the length that it names. cut: the body alone ends there. corrupt: a byte of the answer's body is changed, at
    `where` of its length. spoil: the same with the request's body. stale: the answer is the one that this path had when
    it was read before, if it was. status: the answer is `code`, and nothing is sent; with `seconds`, for so long only.
    A late request is sent no sooner than `until` is true.
    """

    what: What
    method: str = ""
    part: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 0.0
    code: int = 503
    where: float = 0.5
    until: Callable[[], bool] = field(default=lambda: True)
    made_at: float = field(default_factory=time.monotonic)

    def matches(self, method: str, path: str) -> bool:
        """Whether it happens to this request; counts it."""
        if self.times <= 0 or (self.method and self.method != method) or self.part not in path:
            return False
        if self.what == "status" and self.seconds and time.monotonic() - self.made_at > self.seconds:
            return False
        self.skip -= 1
        if self.skip >= 0:
            return False
        self.times -= 1
        return True


@dataclass
class Proxy:
    """A running proxy: add to `faults` and read `log` at any time."""

    target: str
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    late: list[threading.Thread] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Return the first fault that happens to this request."""
        with self.lock:
            found = next((fault for fault in self.faults if fault.matches(method, path)), None)
            if found:
                self.log.append(f"{found.what} {method} {path}")
            return found

    def settle(self) -> None:
        """Wait until every late request has been delivered."""
        for thread in list(self.late):
            thread.join()

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send a request to the server; return status, headers and body of its answer."""
        url = urlsplit(self.target)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in ("expect", "connection", "content-length"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class Handler(BaseHTTPRequestHandler):
    """One connection of the client."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def pass_on(self) -> None:
        """Do to a request what a fault says, else forward it."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault_for(self.command, self.path)
        what, headers = fault.what if fault else "", dict(self.headers.items())
        if fault and what == "late":
            self.send_later(fault, headers, body)
        if fault and what == "delay":
            time.sleep(fault.seconds)
        if fault and what == "spoil":
            body = changed(body, fault.where)
        if what in ("drop", "late"):
            self.close_connection = True
            return
        if fault and what == "status":
            self.answer(fault.code, [], b"")
            return
        old = self.proxy.answers.get(self.path) if what == "stale" else None
        status, found, data = old or self.proxy.forward(self.command, self.path, headers, body)
        if self.command == "GET" and len(data) < MOST_REMEMBERED:
            self.proxy.answers[self.path] = status, found, data
        if what == "lose":
            self.close_connection = True
            return
        named = int(dict(found).get("Content-Length", 0)) if self.command == "HEAD" else len(data)
        if fault and what in ("short", "cut"):
            data = data[:int(len(data) * fault.where)]
            named = named if what == "cut" else len(data)
            self.close_connection = True
        if fault and what == "corrupt":
            data = changed(data, fault.where)
        self.answer(status, found, data, named)

    def send_later(self, fault: Fault, headers: dict[str, str], body: bytes) -> None:
        """Deliver a request when its client no longer waits for it."""
        method, path, proxy = self.command, self.path, self.proxy

        def deliver() -> None:
            time.sleep(fault.seconds)
            while not fault.until():
                time.sleep(0.05)
            status, _, _ = proxy.forward(method, path, headers, body)
            proxy.log.append(f"delivered {method} {path} {status}")

        thread = threading.Thread(target=deliver, daemon=True)
        proxy.late.append(thread)
        thread.start()

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, named: int | None = None) -> None:
        """Send an answer with these bytes, of which it names so many."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if named is None else named))
        # A client that was killed meanwhile reads no answer.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(data)

    def handle_one_request(self) -> None:
        """Wait for a request; a client that is killed between two of them ends the connection."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on


def changed(data: bytes, where: float) -> bytes:
    """Return some bytes with one of them changed, at this share of their length."""
    found = bytearray(data)
    if found:
        found[min(int(len(found) * where), len(found) - 1)] ^= 0x15
    return bytes(found)


@contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """Run a proxy before a server during a block."""
    proxy = Proxy(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
