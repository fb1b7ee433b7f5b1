"""A page in a headless browser driven by a test."""

import base64
import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import browser
import pytest

FLAGS = [flag for flag in browser.FLAGS if "virtual-time" not in flag and "logging" not in flag]
PATIENCE = 120.0  # seconds; timeout


class Page:
    """A page of the browser, controlled by the DevTools protocol."""

    def __init__(self, told: Any, heard: Any):
        self._told, self._heard = told, heard
        self._number, self._session = 0, None
        self.complaints: list[str] = []  # of the console

    def call(self, method: str, **given: Any) -> Any:
        """The browser's response."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": given}
        if self._session is not None:
            asked["sessionId"] = self._session
        self._told.write(json.dumps(asked).encode() + b"\0")
        self._told.flush()
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            if found.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(found["params"]))

    def _next(self) -> dict[str, Any]:
        parts = bytearray()
        while (one := self._heard.read(1)) != b"\0":
            assert one, "the browser has ended"
            parts += one
        return json.loads(parts)

    def open(self, address: str) -> None:
        """Open an address in a new page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for room in ("Runtime", "Log", "Page"):
            self.call(f"{room}.enable")
        self.call("Page.navigate", url=address)

    def __call__(self, script: str) -> Any:
        """The value of an expression."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression once it is true."""
        end, pause = time.monotonic() + PATIENCE, 0.02
        while not (found := self(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(pause)
            pause = min(0.2, 1.2 * pause)  # a busy page must get to its own work
        return found

    def look(self, width: int, *, dark: bool = False) -> None:
        """Set the width of the page in pixels, and light or dark colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def faults(self) -> list[str]:
        """Accessibility violations found by axe-core: rule, impact, and element."""
        axe = pytest.importorskip("axe_core_python.base")
        if not self("typeof axe === 'object'"):
            self(f"{axe.AXE_SCRIPT}; true")
        found = self("axe.run()")
        assert "color-contrast" in [one["id"] for one in found["passes"]], "contrast was not told"
        return [
            f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def picture(self, file: Path) -> None:
        """Write a screenshot of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def opened(address: str, folder: Path) -> Generator[Page]:
    """An address opened in a new browser; without one the test is skipped."""
    program = browser.browser()
    pipes = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (*os.pipe(), *os.pipe())]
    hears, told, heard, tells = pipes
    flags = [*FLAGS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe"]
    command = ["bash", "-c", f'exec "$@" 3<&{hears} 4>&{tells}', "bash", program, *flags]
    process = subprocess.Popen(
        command, pass_fds=(hears, tells), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(hears)
    os.close(tells)
    try:
        with os.fdopen(told, "wb") as out, os.fdopen(heard, "rb") as back:
            page = Page(out, back)
            page.open(address)
            yield page
    finally:
        process.terminate()
        process.wait()
