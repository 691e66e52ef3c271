"""A headless Chromium for tests, driven by its DevTools protocol over a pipe: no package, no port, no driver."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TROUBLE = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
MOST_SECONDS = 60.0


class Page:
    """One page of a browser. events: all that the browser has told of it."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.number, self.session, self.unread = 0, "", b""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command and return its result; what the browser tells meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + MOST_SECONDS
        while time.monotonic() < until:
            found = self.read()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)
        raise TimeoutError(method)

    def read(self) -> dict[str, Any]:
        """Return the next message of the browser."""
        while b"\0" not in self.unread:
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser has ended"
            self.unread += part
        first, _, self.unread = self.unread.partition(b"\0")
        return dict(json.loads(first))

    def open(self, url: str) -> None:
        """Load a page and wait until it is complete."""
        self.ask("Page.navigate", url=url)
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Return the value of a script in the page; raises AssertionError if it throws."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "End": 35}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)
            text = {}

    def show(self, width: int, *, scheme: str = "light", media: str = "screen") -> None:
        """Set the window's width, and light or dark, screen or print."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", media=media,
                 features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12_000), "scale": 1}
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    @property
    def requests(self) -> list[str]:
        """The URLs that were asked for; those of data: are part of the page."""
        urls = [event["params"]["request"]["url"] for event in self.events
                if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def troubles(self) -> list[dict[str, Any]]:
        """What the console shows: errors, warnings, refusals of the policy, exceptions."""
        return [event for event in self.events if event.get("method") in TROUBLE]


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run Chromium and give a page; where there is no Chromium the test is skipped and says so."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("there is no chromium: scripts/setup-browser-tests installs it")
    command = [program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    (theirs_in, commands), (answers, theirs_out) = os.pipe(), os.pipe()
    # The browser reads commands from descriptor 3 and writes answers to 4.
    process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
                               pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        process.terminate()
        process.wait(20)
