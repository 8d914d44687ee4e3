"""A headless Chromium by its own protocol, over two pipes: no driver, no websocket, no network.

The protocol is https://chromedevtools.github.io/devtools-protocol; a message is JSON that ends with a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_S = 120.0  # for any one answer; a busy machine is slow
# Elements that stick out of the page, and those whose contents stick out of them, with their text.
STICKS_OUT = """(() => {
  const wide = document.documentElement.clientWidth, found = [];
  const whole = document.documentElement.scrollWidth;
  if (whole > wide) found.push("the page is " + whole + " wide");
  for (const e of document.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest("dialog, svg")) continue;
    const name = e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 60);
    if (box.right > wide + 1 || box.left < -1) found.push(name + " reaches from " + box.left + " to " + box.right);
    else if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) found.push(name + " hides what is in it");
  }
  return found.slice(0, 20);
})()"""


class Browser:
    """One page. `complaints`: console messages, exceptions and log entries of level warning and above since it was
    opened; `requests`: addresses that it asked for, but for data in the page itself."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._count = send, receive, b"", 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command. Raises RuntimeError for an error, TimeoutError where none comes."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self._events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int, scheme: str = "light", media: str = "") -> None:
        """A file, in a window of this many CSS pixels. scheme: light or dark; media: print or ""."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        self._events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script[:80]}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Escape": 27}[key])

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        return base64.b64decode(self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

    @property
    def complaints(self) -> list[str]:
        said = []
        for event in self._events:
            kind, found = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown" or kind == "Runtime.consoleAPICalled":
                said.append(json.dumps(found)[:300])
            elif kind == "Log.entryAdded" and found["entry"]["level"] in ("warning", "error"):
                said.append(found["entry"]["text"])
        return said

    @property
    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self._events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + WAIT_S
        while b"\0" not in self._buffer:
            if not select.select([self._receive], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {WAIT_S:.0f} s")
            data = os.read(self._receive, 1 << 20)
            if not data:
                raise RuntimeError("Chromium has ended")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def started() -> Iterator[Browser]:
    """A browser of its own, which ends with the block. Only where CHROMIUM is there."""
    assert CHROMIUM is not None
    from_us, to_us = os.pipe(), os.pipe()
    # the browser reads from descriptor 3 and writes to 4
    wiring = f'exec "$@" 3<&{from_us[0]} 4>&{to_us[1]}'
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "--mute-audio"]
        options += [f"--user-data-dir={profile}", "--disable-background-networking", "--disable-dev-shm-usage"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            ["bash", "-c", wiring, "bash", CHROMIUM, *options], pass_fds=(from_us[0], to_us[1]),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (from_us[0], to_us[1]):
            os.close(descriptor)
        try:
            yield Browser(from_us[1], to_us[0])
        finally:
            os.close(from_us[1])
            os.close(to_us[0])
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(10)
