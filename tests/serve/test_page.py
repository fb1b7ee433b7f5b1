"""The page: its own files alone, text that stays text, and what a browser shows of it."""

import re
import subprocess

import browser

from nestling.serve.routes.page import FILES, FOLDER


def test_the_page_needs_no_other_host_and_builds_no_html(http):
    page = http.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert set(named) <= {*FILES, "data:,"}
    assert {file.name for file in FOLDER.iterdir()} == {*FILES, "index.html"}
    for name in ("", *FILES):
        text = http.get(f"/{name}").text
        assert "http://" not in text and "https://" not in text
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert not re.search(
            r"<script>|<style|\sstyle=|\son\w+=\"", text
        )  # the policy refuses them
    for name in set(re.findall(r'at\("([\w-]+)"\)', http.get("/page.js").text)):
        assert f'id="{name}"' in page.text


def test_a_browser_runs_it(http, tmp_path):
    http.post("/v1/memories", json={"id": "seen-on-the-page"})
    program = browser.browser()
    flags = [*browser.FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", str(http.base_url)]
    done = subprocess.run([program, *flags], capture_output=True, text=True, check=False)
    assert '<strong id="model">tiny</strong>' in done.stdout
    assert "seen-on-the-page" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
