"""The examples of docs/serve.md run, against a server of the tiny model."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import NAME

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


def examples(language, address):
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("http://127.0.0.1:8000", address).replace('"smollm"', f'"{NAME}"')
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_curl_and_python_examples_run(start, tmp_path, capsys):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with start(tmp_path / "store") as http:
        address = str(http.base_url).rstrip("/")
        job = ""
        calls = re.findall(r"^curl (?:.*\\\n)*.*", "".join(examples("sh", address)), re.MULTILINE)
        assert len(calls) == 5
        for call in calls:
            done = subprocess.run(
                ["bash", "-c", f"{call.replace('JOB', job)} --fail-with-body --silent"],
                cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            job = next(iter(re.findall(r"job-\w+", done.stdout)), job)
        assert (tmp_path / "notes.memory").stat().st_size > 0
        [code] = examples("python", address)
        exec(code, {})
        assert capsys.readouterr().out.endswith("\n")
