"""Reading users' texts: the same documents for learn and train."""

import html
import importlib
import io
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestling.continual.opening import read_documents
from nestling.core.error import UserError
from nestling.data import load_corpus
from nestling.data.pages import html_text, markdown_text
from nestling.data.textfiles import documents_in, read_files

PAGE = """<!DOCTYPE html><html><head><title>Not this</title><meta charset=utf-8>
<script>var no = "1 < 2";</script><style>p { color: red }</style>
<body><h1>Pump</h1><p>Serviced every <b>second</b>
   winter &amp; checked &lt;often&gt;.<p>Keys: in the<br>blue shed
<ul><li>one <li><p>two</p></li><li></li></ul><table><tr><th>a<th>b<tr><td>1<td>2</table>
<pre>if x:

    y()</pre>"""
PAGE_TEXT = """Pump

Serviced every second winter & checked <often>.

Keys: in the
blue shed

- one
- two

a | b
1 | 2

if x:

    y()"""
NOTES = """# Pump

Serviced every *second* winter, **always**; `ssh <host>`, <name> and a < b.
See [the shed](http://example.org).

- one
- two

| a | b |
|---|---|
| 1 | 2 |

```python
if x:

    y()
```
"""
NOTES_TEXT = """Pump

Serviced every second winter, always; ssh <host>, <name> and a < b. See the shed.

- one
- two

a | b
1 | 2

if x:

    y()"""
FILES = {
    "plain.txt": (b"one\ntwo\n", ["one\ntwo\n"]),
    "marked.txt": (b"\xef\xbb\xbfone\r\ntwo\rthree", ["one\ntwo\nthree"]),
    "no-suffix": ("caf\u00e9 <|endoftext|>".encode(), ["caf\u00e9 <|endoftext|>"]),
    "lines.jsonl": (b'\xef\xbb\xbf{"text": "one"}\r\n\n{"text": "t\\r\\nwo"}\n', ["one", "t\nwo"]),
    "lines.NDJSON": (b'{"text": " "}\n{"text": "two"}', ["two"]),
    "page.html": (PAGE.encode(), [PAGE_TEXT]),
    "notes.md": (NOTES.encode(), [NOTES_TEXT]),
}


@pytest.mark.parametrize("name", FILES)
def test_learn_and_train_read_files_identically(tmp_path, name):
    content, expected = FILES[name]
    (tmp_path / name).write_bytes(content)
    read = read_documents([tmp_path / name])
    assert [text for _, text in read] == expected
    assert "".join(read_files(tmp_path / name)) == "".join(expected)
    assert all(title.startswith(name) for title, _ in read)


def test_folder_is_read_by_path_without_hidden_files(tmp_path):
    for name, (content, _) in FILES.items():
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_bytes(content)
    (tmp_path / ".hidden").write_bytes(b"\0")
    (tmp_path / "empty.txt").write_bytes(b"")
    read = read_documents([tmp_path])
    names = [name for name, _ in read]
    assert {f"deep/{name}".split(".")[0] for name in FILES} == {n.split(".")[0] for n in names}
    assert "deep/lines.jsonl line 3" in names
    assert sorted(text for _, text in read) == sorted(t for _, e in FILES.values() for t in e)
    records = [document for document in documents_in(tmp_path) if document.record]
    assert len(records) == 3


BAD = {
    "nul.txt": (b"a\0b", "binary"),
    "wide.txt": ("some text".encode("utf-16"), "not UTF-8 .byte 0"),
    "latin.md": (b"caf\xe9", "not UTF-8 .byte 3"),
    "nul.html": (b"<p>a\0b", "binary"),
    "nul.jsonl": (b'{"text": "a\\u0000"}', "NUL"),
    "half.jsonl": (b'{"text": "\\ud800"}', "lone surrogate"),
    "cut.jsonl": (b'{"text": "a"}\n{"tex', "line 2 is not JSON"),
    "other.jsonl": (b'{"body": "a"}', 'no string "text"; name the field .* other.jsonl#body'),
    "empty.txt": (b"", "empty"),
    "blank.html": (b"<html><title>x</title> </html>", "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_non_text_is_refused_by_both(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    for read in (lambda path: read_documents([path]), lambda path: load_corpus(str(path))):
        with pytest.raises(UserError, match=message) as raised:
            read(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_field_is_given_after_the_file_name(tmp_path):
    file = tmp_path / "notes.jsonl"
    lines = [
        {"text": "no", "body": " ".join(f"w{n * 99 + i}" for i in range(30))} for n in range(9)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    bodies = [line["body"] for line in lines]
    assert [text for _, text in read_documents([f"{file}#body"])] == bodies
    assert [text for _, text in read_documents([f"{tmp_path}#body"])] == bodies
    corpus = load_corpus(f"{file}#body")
    assert sorted(corpus.documents + corpus.held_out) == sorted(bodies)
    with pytest.raises(UserError, match="one short document"):
        load_corpus(str(file))  # the other field, and not from the cache
    with pytest.raises(UserError, match='no string "none"'):
        read_documents([f"{file}#none"])
    (tmp_path / "notes.jsonl#body").write_text("a file of this very name")
    assert read_documents([f"{file}#body"])[0][1] == "a file of this very name"
    assert read_documents(["C# is a language"]) == [("text", "C# is a language")]


def test_stdin_is_read_like_a_file(monkeypatch):
    for content, expected in ((b"\xef\xbb\xbfa\r\nb", "a\nb"), ("\u00e9".encode(), "\u00e9")):
        stream = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_documents(["-"]) == [("-", expected)]
    for content, message in (
        (b"a\0", "binary"),
        (b"\xff", "the input is not UTF-8"),
        (b"", "empty"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(UserError, match=message):
            read_documents(["-"])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_html_keeps_all_words(text):
    assert html_text(f"<div>{html.escape(text)}</div>").split() == text.split()


@given(st.text(max_size=50), st.booleans())
def test_any_text_parses_as_html(text, foreign):
    assert isinstance(html_text(text, foreign=foreign), str)
    assert isinstance(markdown_text(text), str)


@given(st.lists(st.text(alphabet="ab <>&#*_-|\\", min_size=1, max_size=12), min_size=1))
def test_code_in_markdown_is_unchanged(lines):
    code = "\n".join(f"x{line}" for line in lines)
    assert markdown_text(f"before\n\n~~~~\n{code}\n~~~~\n") == f"before\n\n{code}"


# Parquet


class Stand(ModuleType):
    """A stand-in for pyarrow over a dict of columns."""

    def __init__(self, columns):
        super().__init__("pyarrow")
        self.ArrowException = type("ArrowException", (Exception,), {})
        self.columns = columns
        self.parquet = SimpleNamespace(ParquetFile=self.opened)

    def opened(self, path):
        if not path.read_bytes().startswith(b"PAR1"):
            raise self.ArrowException("Parquet magic bytes\nnot found")
        return self

    schema_arrow = property(lambda self: SimpleNamespace(names=list(self.columns)))
    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *error: None  # noqa: E731

    def iter_batches(self, columns):
        for value in self.columns[columns[0]]:
            column = SimpleNamespace(to_pylist=lambda value=value: [value])
            yield SimpleNamespace(column=lambda index, column=column: column)


@pytest.fixture
def stand(monkeypatch):
    stand = Stand({"text": ["one", "t\r\nwo"], "id": [1, 2], "body": ["three", None]})
    monkeypatch.setitem(sys.modules, "pyarrow", stand)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", stand.parquet)


def check_parquet(path, broken):
    assert read_documents([path]) == [("a.parquet row 1", "one"), ("a.parquet row 2", "t\nwo")]
    assert list(read_files(path)) == ["one", "t\nwo"]
    for name, message in (
        (f"{path}#body", 'row 2 has no string "body"'),
        (f"{path}#id", 'row 1 has no string "id"'),
        (f"{path}#none", 'no column "none"; name one of its columns, as in a.parquet#text'),
        (broken, "cannot be read as Parquet"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            read_documents([name])
        assert "\n" not in str(raised.value)


def test_parquet_column_is_read(tmp_path, stand):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "b.parquet").write_bytes(b"no such thing")
    check_parquet(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_parquet_with_pyarrow(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    columns = {"text": ["one", "t\r\nwo"], "id": [1, 2], "body": ["three", None]}
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    check_parquet(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_without_pyarrow_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pip install 'nestling\[data\]'"):
        read_documents([tmp_path / "a.parquet"])
