"""Sets of records: fetching, caching, and checks on reading."""

import io
import json
import struct
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.data import SETS, Labelled, Pair, fetch_set, hub, intents, load_set, pypi
from nestling.data.descriptions import described, sections, synopses
from nestling.data.sets import Described, place
from nestling.data.templates import Sampler
from nestling.data.verses import aligned, catalogue, messages

TEMPLATES = {
    "language": "en",
    "intents": {
        "HassTurnOn": {
            "data": [
                {
                    "sentences": [
                        "(turn|switch) on [<the>] {area} <light>",
                        "<light> on in {area}",
                    ],
                    "metadata": {"slot_combination": "area_domain"},
                },
                {"sentences": ["{unheard_of} on"], "metadata": {"slot_combination": "name_only"}},
            ]
        },
        "HassSetPosition": {"data": [{"sentences": ["set {position}[ percent] {how:x}"]}]},
    },
    "lists": {
        "position": {"range": {"type": "percentage", "from": 0, "to": 3}},
        "how": {"values": ["now", {"in": "(slowly|fast)", "out": "s"}]},
        "message": {"wildcard": True},
    },
    "expansion_rules": {"the": "(the|my)", "light": "light[s]"},
}


def test_every_set_has_its_row(capsys):
    assert main(["data", "list"]) == 0
    told = capsys.readouterr().out
    for name in SETS.names():
        found = SETS.load(name)
        assert found.name == name and found.record in (Labelled, Pair, Described)
        assert any(line.split()[0] == name and found.licence in line for line in told.splitlines())


def test_fetched_once_then_read(monkeypatch, capsys):
    made = []

    def load(*_):
        made.append(1)
        return {"train": [{"text": "a b", "label_text": "x_y"}], "test": []}

    monkeypatch.setattr(hub, "load", load)
    assert main(["data", "fetch", "banking77"]) == 0
    assert main(["data", "fetch", "banking77"]) == 0
    assert len(made) == 1 and "1 records" in capsys.readouterr().out
    records = load_set("banking77")
    assert records.rows == [Labelled("a b", "x y", "learn")]
    assert records.tag.startswith("banking77@") and records.licence == "CC-BY-4.0"
    path = place("banking77")
    path.write_text(path.read_text().replace("a b", "a c"))
    with pytest.raises(UserError, match="damaged"):
        load_set("banking77")
    path.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_set("banking77")


def test_missing_or_empty_set_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="nestling data fetch verses"):
        load_set("verses")
    with pytest.raises(UserError, match="did you mean 'sections'"):
        load_set("section")
    monkeypatch.setattr(hub, "load", lambda *_: {"train": [], "test": []})
    with pytest.raises(UserError, match="has no records"):
        fetch_set("dbpedia", str)
    assert not place("dbpedia").exists()


def test_templates_expand_to_exactly_their_sentences():
    sampler = Sampler({"r": "x[y]"}, {"l": ["1", "<r>"]})
    rng = Random(0)
    drawn = {sampler.draw("(a|b c) [d] <r>{l:slot}", rng) for _ in range(600)}
    heads = [f"{head}{d}" for head in ("a", "b c") for d in (" ", " d ")]
    rules = [f"{one}{other}" for one in ("x", "xy") for other in ("1", "x", "xy")]
    assert drawn == {f"{head}{rule}" for head in heads for rule in rules}
    assert {sampler.draw("(a;b)", rng) for _ in range(20)} == {"a b", "b a"}
    assert {sampler.draw("[a|b]", rng) for _ in range(40)} == {"", "a", "b"}
    for wrong in ("(a", "a)", "[a)", "(a]"):
        with pytest.raises(ValueError, match="brackets"):
            sampler.draw(wrong, rng)
    with pytest.raises(ValueError, match="nested more than"):
        Sampler({"r": "<r>"}, {}).draw("<r>", rng)


def test_intents_come_from_the_pinned_release(tmp_path, monkeypatch):
    path = tmp_path / "intents.whl"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("home_assistant_intents/data/en.json", json.dumps(TEMPLATES))

    @contextmanager
    def archive(release, sha256, *, wheel):
        assert wheel and release == intents.RELEASE and len(sha256) == 64
        yield path

    monkeypatch.setattr(intents, "archive", archive)
    rows = fetch_set("intents", str).rows
    counts = Counter(row.label for row in rows)
    assert set(counts) == {"turn on area domain", "set position"}
    # set {4 numbers}[ percent] {now, slowly, fast}
    assert counts["set position"] == 24 and 80 < counts["turn on area domain"] <= 200
    assert len({row.text for row in rows}) == len(rows)
    assert all("  " not in row.text and "[" not in row.text for row in rows)
    assert list(intents.sentences(TEMPLATES)) == rows, "the same every time"


def test_another_release_is_refused(tmp_path):
    path = tmp_path / "x.whl"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="known release"):
        pypi.check(path, intents.SHA256)


def test_small_sections_and_duplicates_are_dropped():
    def stanza(number: int, section: str, text: str):
        return {"Package": f"p{number}", "Section": section, "Description-en": text}

    rows = [stanza(i, "games", f"game {i}\nof a kind") for i in range(500)]
    rows += [stanza(500 + i, "non-free/mail", f"mail {i}") for i in range(160)]
    rows += [stanza(700, "games", "game 1\nof a kind"), stanza(701, "rare", "alone")]
    found = list(sections({"": rows, "en": rows}))
    assert Counter(row.label for row in found) == {"games": 400, "mail": 160}
    assert found[0].text.endswith("of a kind") and len(set(found)) == 560


def test_described_packages_have_a_word_for_a_name_and_prose():
    def stanza(name: str, line: str, text: str):
        return {"Package": name, "Section": "games", "Description-en": f"{line}\n{text}"}

    prose = "One plays it alone. " * 15
    rows = [stanza("a" * n, f"game number {n} of many", prose) for n in range(1, 31)]
    odd = [
        stanza("b-data", "data of a game b", prose),
        stanza("c", "short game by c", "One plays it."),
        stanza("d", "a game with a list", f"{prose}\n * a list"),
        stanza("e", "one plays it alone", prose),
        stanza("f", "game number 1 of many", prose),
        {"Package": "g", "Section": "rare", "Description-en": f"a rare game indeed\n{prose}"},
    ]
    found = list(described({"": rows + odd, "en": rows + odd}))
    assert len(found) == 24 and {one.section for one in found} == {"games"}
    assert not {"b-data", "c", "d", "e", "g"} & {one.name for one in found}
    assert len({one.line for one in found}) == 24 and found[0].text == prose.strip()
    assert list(described({"": odd + rows, "en": odd + rows})) == found


def test_synopses_are_joined_by_their_hash():
    english = [
        {"Description-md5": "1", "Description-en": "A game of chess\nlong"},
        {"Description-md5": "2", "Description-en": "untranslated as it is"},
    ]
    italian = [
        {"Description-md5": "1", "Description-it": "un gioco di scacchi\nlungo"},
        {"Description-md5": "2", "Description-it": "untranslated as it is"},
        {"Description-md5": "3", "Description-it": "senza originale affatto qui"},
    ]
    found = list(synopses({"en": english, "it": italian}, ("it",)))
    assert found == [Pair("un gioco di scacchi", "A game of chess", "it")]


def test_parallel_verses_are_aligned():
    spanish = ["", "En el principio", "Y fue la luz", "solo"]
    english = ["", "In the beginning", "", "alone it is here"]
    assert list(aligned(spanish, english)) == [Pair("En el principio", "In the beginning", "es")]
    with pytest.raises(ValueError):
        list(aligned(spanish, english[1:]))


def mo(pairs: dict[str, str], order: str) -> bytes:
    """A gettext catalogue, in the layout of the gettext manual."""
    head, count = 28, len(pairs)
    texts = [part.encode() for half in (pairs, pairs.values()) for part in half]
    place, table, body = head + 16 * count, b"", b""
    for text in texts:
        table += struct.pack(f"{order}2I", len(text), place + len(body))
        body += text + b"\0"
    magic = struct.pack(f"{order}I", 0x950412DE)
    return magic + struct.pack(f"{order}6I", 0, count, head, head + 8 * count, 0, 0) + table + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_gettext_catalogue(order):
    import gettext

    pairs = {
        "": "Content-Type: text/plain; charset=UTF-8\n",
        "scenario\x04Who goes there?": "Quis illuc it?",
        "female^We must go on": "Nobis pergendum est",
        "two\nlines of it": "duae\nlineae sunt",
        "Same as it was": "Same as it was",
        "short": "brevis",
    }
    content = mo(pairs, order)
    library = gettext.GNUTranslations(io.BytesIO(content))
    assert library.gettext("short") == "brevis", "the library reads what is made here"
    assert dict(messages(content)) == pairs
    assert list(catalogue(content, "la")) == [
        Pair("Nobis pergendum est", "We must go on", "la"),
        Pair("Quis illuc it?", "Who goes there?", "la"),
    ]


class Feature:
    """Class names by number, as in ``datasets``."""

    names = ("oos", "book_flight", "balance")


def test_hub_schemas():
    """Columns as on the hub: numbers for CLINC150, texts for Banking77, levels for DBpedia."""

    class Split(list):
        features = {"intent": Feature}

    clinc = {
        "train": Split([{"text": "fly  me", "intent": 1}, {"text": "what", "intent": 0}]),
        "validation": Split([{"text": "no", "intent": 2}]),
        "test": Split([{"text": "how much", "intent": 2}]),
    }
    assert list(hub.clinc150(clinc)) == [
        Labelled("fly me", "book flight", "learn"),
        Labelled("how much", "balance", "ask"),
    ]
    bank = {"train": [{"text": "t", "label": 3, "label_text": "card_lost"}], "test": []}
    assert list(hub.banking77(bank)) == [Labelled("t", "card lost", "learn")]
    levels = {"text": "t", "l1": "Agent", "l2": "SportsTeamMember", "l3": "Player"}
    found = list(hub.dbpedia({"train": [], "test": [levels]}))
    assert found == [Labelled("t", "sports team member", "ask")]


def test_datasets_library_reads_the_schema(tmp_path):
    pytest.importorskip("datasets")
    for split, text in (("train", "lost it"), ("test", "gone")):
        row = {"text": text, "label": 0, "label_text": "card_lost"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    found = list(hub.banking77(hub.load(str(tmp_path), None, str)))
    assert found == [
        Labelled("lost it", "card lost", "learn"),
        Labelled("gone", "card lost", "ask"),
    ]


def test_without_hub_or_library_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install"):
        hub.load("a/b", None, str)

    class Library:
        @staticmethod
        def load_dataset(*_):
            raise ConnectionError("no\nroute")

    monkeypatch.setitem(sys.modules, "datasets", Library)
    with pytest.raises(UserError, match="no route"):
        hub.load("a/b", None, str)


def test_no_data_set_records_are_committed():
    root = Path(__file__).resolve().parents[2]
    assert not list(root.glob("nestling/**/*.jsonl"))
