"""A cache of its own for the tests, and text to make small corpora of."""

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
    """A cache that tests reading the standard library share."""
    return tmp_path_factory.mktemp("stdlib")


@pytest.fixture
def stdlib(stdlib_cache, monkeypatch) -> Corpus:
    """The topics and docstrings of the Python that runs the tests."""
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
