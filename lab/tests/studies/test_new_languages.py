"""The study of new languages at a small size: lessons, cipher and cloze."""

import random

import pytest
from small_facts import Made, tiny_reader

from nestling.data import Pair
from nestling_lab.studies.continual import new_languages
from nestling_lab.studies.continual.journey import OLD
from nestling_lab.studies.continual.language_report import report
from nestling_lab.studies.continual.languages import (
    BLOCK,
    LANGUAGES,
    PARTS,
    cloze,
    invented,
    lessons,
)
from nestling_lab.studies.continual.new_languages import NewLanguages

WORDS = ["alpha", "beta", "gamma", "delta", "lumen", "rosa", "terra", "unda", "ventus", "ignis"]
VERSES = [
    Pair(
        " ".join(word + "os" for word in random.Random(i).sample(WORDS, 6)) + ".",
        " ".join(random.Random(-i).sample(WORDS, 6)) + ".",
        "es",
    )
    for i in range(BLOCK * PARTS * 2)
]
SIZES = {"tokens": 200, "longest": 100, "test_tokens": 60, "test_longest": 30, "cloze": 4}


class MadeSet:
    """A generated set of verses."""

    rows = VERSES
    tag = "verses@0"

    def __init__(self, name):
        assert name == "verses"


@pytest.fixture
def base():
    return tiny_reader()


def test_cipher_is_invertible_and_keeps_punctuation():
    letters = "abcdefghijklmnopqrstuvwxyz"
    back = str.maketrans("".join(map(invented, letters)), letters)
    assert invented("And, lo! the sea.").lower().translate(back) == "and, lo! the sea."
    assert invented("Sea.").endswith(".") and invented("Sea")[0].isupper()


def test_test_text_is_held_out_and_splits_match(base):
    for name in LANGUAGES:
        one, other = (lessons(base.tokenizer, name, VERSES, SIZES, seed) for seed in (0, 1))
        assert one.test == other.test and one.validation == other.validation
        assert one.read != other.read
        whole = SIZES | {"tokens": 10**6, "longest": 10**4}
        found = lessons(base.tokenizer, name, VERSES, whole, 0)
        assert len(found.read) == 2 * (PARTS - 2)
        told = [LANGUAGES[name](pair) for pair in VERSES]
        blocks = ["\n".join(told[i : i + BLOCK]) for i in range(0, len(told), BLOCK)]

        def ids(block):
            return base.tokenizer(block)["input_ids"]

        assert ids(blocks[0]) not in found.read and ids(blocks[2]) in found.read
        assert ids(blocks[0])[:30] in found.test


def test_cloze_asks_for_the_last_word(base):
    asked = cloze(base.tokenizer, [pair.text for pair in VERSES], 10)
    assert len(asked) == 10
    for one, pair in zip(asked, VERSES, strict=False):
        words = [base.tokenizer.decode(list(choice)).strip() for choice in one.choices]
        assert words[one.right] == pair.text.rstrip(".").split()[-1]
        assert len(set(words)) == 4
        assert base.tokenizer.decode(list(one.prompt)).endswith(pair.text.rsplit(" ", 1)[0])


@pytest.fixture
def small(monkeypatch, base):
    monkeypatch.setattr(new_languages, "load_corpus", Made)
    monkeypatch.setattr(new_languages, "load_set", MadeSet)
    monkeypatch.setattr(new_languages, "small", lambda config, seed, tell: base)
    readers = ("frozen", "levels-1", "levels-2", "levels-3")
    sizes = SIZES | {
        "tokens": 100,
        "longest": 50,
        "test_tokens": 40,
        "test_longest": 20,
        "cloze": 2,
    }
    return NewLanguages(NewLanguages.Config(readers=readers, seeds=(0, 1), **sizes))


def test_small_study_is_deterministic_and_reported(small):
    done = {}
    for _ in range(2):  # the grid, then the runs that follow from it
        for cell in small.cells(done):
            if cell.name not in done:
                done[cell.name] = small.run(cell)
    assert len(done) == len(small.cells(done)) == 3 * 2 + 1 + 4 * 3
    again = small.tuned.grid("levels-2")[0]
    assert small.run(again).metrics == done[again.name].metrics
    frozen = done[small.tuned.grid("frozen")[0].name].metrics["stages"]
    assert frozen[0] == frozen[1] == frozen[2]
    learned = done[again.name].metrics["stages"]
    assert learned[0]["bits"]["spanish"] == pytest.approx(frozen[0]["bits"]["spanish"], rel=1e-4)
    assert learned[1]["bits"]["spanish"] < learned[0]["bits"]["spanish"]
    finding = small.find(done)
    assert set(finding.metrics) == set(small.config.readers)
    assert finding.metrics["frozen"]["lost"]["mean"] == 0
    assert len(finding.shown.tables[0].rows) == len(small.config.readers)


def test_diverged_reader_is_never_best(small):
    def stages(*values):
        kinds = [{OLD: v, "spanish": v, "invented": v} for v in values]
        return {"stages": [{"bits": kind, "cloze": kind} for kind in kinds]}, None

    nan = float("nan")
    sound, lost = stages(5.0, 4.0, 3.0), stages(5.0, 1.0, nan)
    found = {"fine-tuning": ({}, [sound, sound]), "levels-1": ({}, [sound, lost])}
    finding = report(small.config, found)
    rows = {row[0]: row for row in finding.shown.tables[0].rows}
    assert rows["full fine-tuning"][3] == "3 +/- 0"
    assert rows["1 level"][3] == "3 (1 of 2 diverged)"
    assert "1 level (in part diverged)" in finding.sections[1].figures[0].lower()


def test_missing_cells_are_left_out(small):
    done = {cell.name: small.run(cell) for cell in small.tuned.grid("frozen")}
    found = small.find(done).metrics["frozen"]
    assert found["bits invented both"]["count"] == 1 and found["bits invented alone"]["count"] == 0
    for cell in small.cells(done):
        if cell.name.startswith("frozen"):
            done[cell.name] = small.run(cell)
    found = small.find(done).metrics
    assert set(found) == {"frozen"} and found["frozen"]["bits invented alone"]["count"] == 2
    assert NewLanguages().find({}).sections[0].title == "Method"
