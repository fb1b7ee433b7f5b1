"""Descriptions of Debian packages from apt's lists: by section, by package, with translations."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nestling.core.error import UserError
from nestling.data.sets import Described, Labelled, Pair, Report, TextSet

HELPER = "/usr/lib/apt/apt-helper"  # reads lists in any compression that apt uses
PATIENCE = 600  # seconds
LEAST, MOST = 150, 400  # a section with fewer texts is dropped, one with more is truncated
PAIRS = 4000  # maximum number per language
SHORT, LONG = 50, 90  # words of a long description in the set of packages
EACH = 24  # packages per section of that set
LICENCE = "those of the packages (free in Debian's sense)"


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is missing; this data needs Debian or Ubuntu") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot read Debian's lists ({error}); connect to the network") from error
    return done.stdout.decode(errors="replace")


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file, each as its fields; indented lines are continuations.

    >>> list(stanzas("A: x\\n y\\n .\\n z\\n\\nA: w\\n"))
    [{'A': 'x\\ny\\n\\nz'}, {'A': 'w'}]
    """
    found: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if not line:
            if found:
                yield found
            found = {}
        elif line[0] == " ":
            found[name] += "\n" + ("" if line == " ." else line[1:])
        else:
            name, _, value = line.partition(":")
            found[name] = value.strip()


def lists(languages: tuple[str, ...], report: Report) -> dict[str, list[dict[str, str]]]:
    """Fetch the stanzas of the packages (key "") and of the descriptions in each language."""
    report(f"fetching Debian's lists of descriptions ({', '.join(languages)}) ...")
    with tempfile.TemporaryDirectory() as draft:
        (Path(draft) / "partial").mkdir()
        options = [f"Dir::State::lists={draft}", f"Acquire::Languages={','.join(languages)}"]
        options += ["APT::Sandbox::User=root"]
        if shutil.which("apt-get") is None:
            raise UserError("apt-get is missing; this data needs Debian or Ubuntu")
        _run(["apt-get", *(word for one in options for word in ("-o", one)), "update"])
        found = {}
        for language in ("", *languages):
            ending = f"i18n_Translation-{language}" if language else "binary-*_Packages"
            files = sorted(Path(draft).glob(f"*_main_{ending}*"))
            texts = [_run([HELPER, "cat-file", str(file)]) for file in files]
            found[language] = [stanza for text in texts for stanza in stanzas(text)]
    return found


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sections(found: dict[str, list[dict[str, str]]]) -> Iterator[Labelled]:
    """English descriptions labelled with their section, for sections that have enough of them.

    No text occurs twice.
    """
    kind = {stanza["Package"]: stanza.get("Section", "") for stanza in found[""]}
    texts = {}
    for stanza in found["en"]:
        label = kind.get(stanza["Package"], "").rpartition("/")[2]
        text = " ".join(stanza.get("Description-en", "").split())
        if label and text:
            texts.setdefault(text, label)
    counts, kept = Counter(texts.values()), Counter()
    for text, label in sorted(texts.items(), key=lambda item: (item[1], _order(item[0]))):
        kept[label] += 1
        if counts[label] >= LEAST and kept[label] <= MOST:
            yield Labelled(text, label)


def synopses(found: dict[str, list[dict[str, str]]], languages: tuple[str, ...]) -> Iterator[Pair]:
    """First lines of descriptions with their translations, without repeats or untranslated ones."""
    english = {
        stanza["Description-md5"]: stanza.get("Description-en", "").partition("\n")[0]
        for stanza in found["en"]
    }
    for language in languages:
        pairs = {}
        for stanza in found[language]:
            text = stanza.get(f"Description-{language}", "").partition("\n")[0]
            meaning = english.get(stanza.get("Description-md5", ""), "")
            if len(text.split()) > 2 and meaning and text != meaning:
                pairs.setdefault(meaning, text)
        for meaning, text in sorted(pairs.items(), key=lambda item: _order(item[0]))[:PAIRS]:
            yield Pair(text, meaning, language)


def described(found: dict[str, list[dict[str, str]]]) -> Iterator[Described]:
    """Packages whose name is a word, with a long description in prose.

    Those of sections with enough of them, ``EACH`` a section; no line occurs twice.
    """
    kind = {stanza["Package"]: stanza.get("Section", "") for stanza in found[""]}
    packages: dict[str, Described] = {}
    lines = set()
    for stanza in sorted(found["en"], key=lambda one: _order(one["Package"])):
        name = stanza["Package"]
        line, _, rest = stanza.get("Description-en", "").partition("\n")
        section = kind.get(name, "").rpartition("/")[2]
        prose = all(row[:1].isalnum() or not row for row in rest.splitlines())
        text = " ".join(rest.split())
        fits = SHORT <= len(text.split()) <= LONG and len(line.split()) >= 4
        told = line in lines or line.lower() in text.lower()
        if section and name.isalpha() and prose and fits and not told:
            packages.setdefault(name, Described(name, section, line, text))
            lines.add(line)
    counts, kept = Counter(one.section for one in packages.values()), Counter()
    for one in packages.values():
        kept[one.section] += 1
        if counts[one.section] >= EACH and kept[one.section] <= EACH:
            yield one


SECTIONS = TextSet(
    name="sections",
    summary="descriptions of Debian packages with their section (apt's lists)",
    licence=LICENCE,
    record=Labelled,
    make=lambda report: sections(lists(("en",), report)),
)
SYNOPSES = TextSet(
    name="synopses",
    summary="first lines of Debian's descriptions in Italian and Danish, and in English",
    licence=LICENCE,
    record=Pair,
    make=lambda report: synopses(lists(("en", "it", "da"), report), ("it", "da")),
)
PACKAGES = TextSet(
    name="packages",
    summary="Debian packages with their descriptions, short and long (apt's lists)",
    licence=LICENCE,
    record=Described,
    make=lambda report: described(lists(("en",), report)),
)
