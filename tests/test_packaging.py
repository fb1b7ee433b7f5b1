"""The wheel and sdist work outside the checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import nestling

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


def test_wheel_metadata_and_use_outside_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        held.extractall(tmp_path)
        info = next(name for name in names if name.endswith("/METADATA"))
        told = message_from_string(held.read(info).decode())
    assert {"nestling/py.typed", "nestling/COMMIT", "nestling/serve/page/index.html"} <= names
    assert told["Version"] == nestling.__version__ and told["License-Expression"] == "Apache-2.0"
    assert told["Description-Content-Type"] == "text/markdown" and told.get_payload()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asked = [sys.executable, "-m", "nestling", "--version"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert re.match(rf"nestling {re.escape(nestling.__version__)} \(commit \S+; ", done.stdout)


def test_an_sdist_builds_the_wheel(wheel, tmp_path):
    made = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path / "dist")))
    with tarfile.open(made) as held:
        held.extractall(tmp_path, filter="data")
    source = next(path for path in tmp_path.iterdir() if path.name.startswith("nestling-"))
    again = next(WheelBuilder(str(source)).build(directory=str(tmp_path / "again")))
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert set(one.namelist()) == set(other.namelist())
        assert one.read("nestling/COMMIT") == other.read("nestling/COMMIT")
    assert not (source / "tests").exists() and (source / "CITATION.cff").exists()
