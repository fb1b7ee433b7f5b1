"""A separate cache for the tests, and text for small corpora."""

import pytest

from nestling.data import Corpus, load_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NESTLING_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def stdlib_cache(tmp_path_factory):
    """A cache shared by tests that read the standard library."""
    return tmp_path_factory.mktemp("stdlib")


@pytest.fixture
def stdlib(stdlib_cache, monkeypatch) -> Corpus:
    """The topics and docstrings of the running Python."""
    monkeypatch.setenv("NESTLING_DATA", str(stdlib_cache))
    return load_corpus("stdlib")


@pytest.fixture
def pages(tmp_path):
    """A folder of forty different documents."""
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(40):
        words = " ".join(f"word{number * 31 + place}" for place in range(40))
        (folder / f"{number:02}.txt").write_text(f"Page {number}\n\n{words}\n", encoding="utf-8")
    return folder
