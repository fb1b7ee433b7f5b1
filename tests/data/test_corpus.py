"""Corpora: reproducible text, no held-out text in training, clear errors."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.core.error import UserError
from nestling.data import load_corpus
from nestling.data.corpus import normalise, split, verify
from nestling.data.duplicates import SHARE, near_duplicates, shingles
from nestling.data.stdlib import files, read_code, read_docs
from nestling.data.textfiles import passages


def words(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def test_split_is_complete_stable_and_by_document(pages):
    corpus = load_corpus(str(pages))
    both = corpus.documents + corpus.held_out
    assert len(both) == len(set(both)) == 40
    assert corpus.held_out and len(corpus.held_out) < 20
    (pages / "99.txt").write_text(words(5000, 60))
    later = load_corpus(str(pages))
    assert set(corpus.held_out) <= set(later.held_out)
    assert set(corpus.documents) <= set(later.documents)
    assert later.sha256 != corpus.sha256


def test_cached_corpus_is_identical(pages, cache):
    first = load_corpus(str(pages))
    assert list((cache / "corpora").iterdir())
    assert load_corpus(str(pages)) == first == verify(str(pages))
    assert first.tag == f"pages@{first.sha256[:16]}"


def test_exact_and_near_duplicates_are_not_held_out():
    texts = [words(100 * number, 50) for number in range(200)]
    _, alone = split(texts)
    assert len(alone) > 4
    copies = [f"{text} and a new end" for text in alone[1:]]
    train, held_out = split([*texts, *texts, *copies])
    assert alone[0] in held_out
    assert len(train) + len(held_out) == 200 + len(copies)
    for text in held_out:
        assert not near_duplicates([text], train)


def test_compilations_of_several_documents_are_detected():
    first, second = words(0, 100), words(1000, 100)
    mixture = words(40, 20) + " " + words(1040, 20)
    assert near_duplicates([mixture], [first, second]) == [0]
    assert near_duplicates([words(2000, 30)], [first, second]) == []


def test_renamed_document_counts_as_training():
    base = words(0, 40)
    half = words(0, 30) + " " + words(500, 20)  # near the first
    tail = words(500, 20) + " " + words(900, 8)  # near the second only
    assert near_duplicates([half, tail], [base]) == [0, 1]
    assert near_duplicates([tail], [base]) == []


def test_shingles_ignore_case_and_punctuation():
    assert shingles("One two, three!").tolist() == shingles("one TWO three").tolist()
    assert len(shingles(words(0, 20))) == 13 and 0 < SHARE <= 1
    assert len(shingles("")) == 1


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(
    st.text(alphabet="ab \n\r\x0b\u2028", max_size=300),
    st.integers(1, 40),
)
def test_passages_lose_nothing(text, size):
    cut = passages(text, size)
    assert "".join(cut) == text
    assert all(cut)


def test_single_file_is_split_into_passages(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(words(50 * number, 50) for number in range(60)))
    corpus = load_corpus(str(path))
    assert len(corpus.documents) > 20 and corpus.held_out


def test_single_long_line_is_split(tmp_path):
    path = tmp_path / "line.txt"
    path.write_text(words(0, 5000))
    assert len(load_corpus(str(path)).documents) > 20


def test_jsonl_is_one_document_per_line(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("\n".join(json.dumps({"text": words(99 * n, 30)}) for n in range(30)) + "\n")
    corpus = load_corpus(str(path))
    assert len(corpus.documents) + len(corpus.held_out) == 30


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n \n", "empty"),
        ("a.txt", b"just a word", "one short document"),
        ("a.txt", b"a\0b", "binary"),
        ("a.txt", b"caf\xe9 au lait", "not UTF-8 .byte 3"),
        ("a.jsonl", b'{"text": "a"}\n{"tex', "line 2 is not JSON"),
        ("a.jsonl", b'{"txt": "a"}\n', 'line 1 has no string "text"'),
        ("a.jsonl", b"[1]\n", 'line 1 has no string "text"'),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "lone surrogate"),
        ("a.jsonl", b'{"text": "a\\u0000"}\n', "NUL"),
        ("a.txt", b"the same line again and again\n" * 500, "less repetition"),
        ("a.jsonl", b'{"text": "So?"}\n{"text": "so."}\n{"text": "So!"}', "near-duplicate"),
    ],
)
def test_bad_files_are_one_line(tmp_path, cache, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_corpus(str(tmp_path / file))
    assert "\n" not in str(raised.value)
    assert not cache.exists()


def test_unknown_names_and_paths():
    with pytest.raises(UserError, match="did you mean 'stdlib'"):
        load_corpus("stdlb")
    with pytest.raises(UserError, match="no text at"):
        load_corpus("missing/book.txt")
    with pytest.raises(UserError, match="share between"):
        load_corpus("stdlib", held_out=1.5)


def test_an_empty_folder(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="contains no files"):
        load_corpus(str(tmp_path / "nothing"))


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\xff\xfe", None])
def test_damaged_cache_is_named(pages, cache, damage):
    load_corpus(str(pages))
    (path,) = (cache / "corpora").iterdir()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"word7 ", b"word8 ") if damage is None else damage)
    with pytest.raises(UserError, match="delete it and run again"):
        load_corpus(str(pages))


def test_truncated_cache_is_named(pages, cache):
    load_corpus(str(pages))
    (path,) = (cache / "corpora").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="delete it and run again"):
        load_corpus(str(pages))


def test_unwritable_cache(pages, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="NESTLING_DATA"):
        load_corpus(str(pages))


def test_full_disk_leaves_no_partial_files(pages, cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        load_corpus(str(pages))
    assert not list((cache / "corpora").iterdir())


def library(root):
    """A small standard library."""
    (root / "pydoc_data").mkdir(parents=True)
    (root / "pydoc_data" / "topics.py").write_text("topics = {'b': 'second', 'a': 'first'}\n")
    (root / "test").mkdir()
    (root / "test" / "hidden.py").write_text('"""No."""')
    (root / "pack").mkdir()
    (root / "pack" / "__init__.py").write_text('"""A package."""\nraise SystemExit\n')
    (root / "empty.py").write_text("x = 1\n")
    (root / "mod.py").write_text(
        '"""A module."""\nclass C:\n    """A class."""\n    def f(self, a=1):\n        """It."""\n'
    )
    return root


def test_docstrings_are_read_without_importing(tmp_path):
    texts = list(read_docs(library(tmp_path)))
    assert texts[:2] == ["first", "second"]
    assert "module mod\n\nA module.\n\nclass C\n\nA class.\n\nC.f(self, a=1)\n\nIt." in texts
    assert "module pack\n\nA package." in texts
    assert not any("No." in text for text in texts)


def test_sources_are_read_in_order(tmp_path):
    texts = list(read_code(library(tmp_path)))
    assert [text.split("\n")[0] for text in texts[2:]] == [
        "# empty.py",
        "# mod.py",
        "# pack/__init__.py",
    ]


def test_python_without_sources(tmp_path):
    with pytest.raises(UserError, match="no sources"):
        files(tmp_path)


def test_stdlib_is_enough_to_train_on(stdlib):
    assert sum(map(len, stdlib.documents)) > 1_500_000
    assert 20_000 < sum(map(len, stdlib.held_out)) < 400_000
    assert load_corpus("stdlib") == stdlib
    assert not near_duplicates(stdlib.held_out, stdlib.documents)
