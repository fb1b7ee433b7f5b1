"""Generated prose, so that no study test reads a whole corpus."""

import pytest


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder of forty short texts, with an empty cache."""
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        lines = (f"The {i}th house has {n * i} doors and {n} stairs." for n in range(1, 12))
        (folder / f"{i}.txt").write_text(" ".join(lines))
    return str(folder)
