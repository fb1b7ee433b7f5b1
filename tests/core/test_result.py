"""The provenance of a Result."""

import subprocess

import pytest

from nestling.core import build
from nestling.core.build import commit


@pytest.fixture
def repository(tmp_path):
    """A source file and a Result, committed."""
    for name in ("source.py", "results/study/cell.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for asked in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *asked], check=True)
    return tmp_path


def test_only_source_changes_make_a_commit_dirty(repository):
    name = commit(repository)
    assert len(name) == 12
    (repository / "results/study/cell.json").write_text("2")
    (repository / "results/study/other.json").write_text("1")
    assert commit(repository) == name
    (repository / "source.py").write_text("2")
    assert commit(repository) == f"{name}-dirty"


def test_without_a_repository_the_commit_is_unknown(tmp_path):
    assert commit(tmp_path) == "unknown"


def test_commit_of_an_enclosing_repository_is_ignored(repository):
    inside = repository / ".venv" / "lib"
    inside.mkdir(parents=True)
    assert commit(inside) == "unknown"


def test_build_records_its_commit(monkeypatch, tmp_path):
    (tmp_path / "COMMIT").write_text("0123456789ab\n")
    monkeypatch.setattr(build, "COMMIT", tmp_path / "COMMIT")
    assert commit() == "0123456789ab"
    assert "(commit 0123456789ab; Python 3" in build.facts("1.2")
