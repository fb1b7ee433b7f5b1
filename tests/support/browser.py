"""Open a page in a headless browser: its console messages and width."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=4000",
]  # fmt: skip
# the page is measured from outside: it has no script of its own
PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" width="%(width)d" height="900" style="border:0"></iframe><pre id="found"></pre>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const inner = frame.contentDocument;
  const shown = [...inner.querySelectorAll("svg")].filter(
    (x) => x.getBoundingClientRect().width > 100 && x.getBoundingClientRect().height > 50);
  const words = [...inner.querySelectorAll("p, td, li")].map(
    (x) => parseFloat(getComputedStyle(x).fontSize));
  document.getElementById("found").textContent = JSON.stringify({
    width: inner.documentElement.scrollWidth, figures: shown.length,
    tables: inner.querySelectorAll("table").length, smallest: Math.min(...words),
    title: inner.title});
};
frame.srcdoc = %(page)s;
</script>"""


class Opened(NamedTuple):
    """The observations of a browser."""

    width: int  # width of the page in pixels
    figures: int  # drawn, with an area
    tables: int
    smallest: float  # font size of running text, pixels
    title: str
    complaints: list[str]  # lines of the console


def browser() -> str:
    """The browser's executable; without one the test is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)})")
    return found


def open_page(page: Path, folder: Path, *, width: int = 390) -> Opened:
    """Open a page of HTML in a frame of ``width`` pixels; ``folder`` holds the browser's files."""
    program = browser()
    text = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    probe = folder / "probe.html"
    probe.write_text(PROBE % {"width": width, "page": text}, encoding="utf-8")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, check=False)
    found = re.search(r'<pre id="found">(\{.*?\})</pre>', done.stdout)
    assert found, f"the page was not measured: {done.stderr[-500:]}"
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(**json.loads(found[1]), complaints=complaints)
