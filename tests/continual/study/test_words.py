"""Sentences, parts of sentences, and passages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.continual.study.passages import passages, subject
from nestling.continual.study.words import sentences, spans, telling, with_article, words

ODD = [
    "",
    "x",
    "...",
    "1 2 3 4 5 6 7",
    "eins zwei drei. Der Hund bellt nie, weil er schlaeft.",
    "一二三。四五六。",
    "no end and no stop " * 60,
    "A: 1\nB: 2\nC: 3",
    "((((",
    "\n\n\n",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_parsed(text):
    for sentence in sentences(text):
        assert words(sentence)
        for span in spans(sentence):
            assert span.text in sentence
            assert with_article(sentence, span).endswith(span.text)


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_only_whitespace_is_lost(text):
    kept = "".join("".join(sentences(text)).split())
    wanted = [word.text for word in words(text)]
    assert [word.text for word in words(" ".join(sentences(text)))] == wanted or not wanted
    assert all(part in kept for part in wanted if "." not in part)


def test_long_list_items_stay_apart():
    """An item is no continuation of the one before, however long that is."""
    long = "- Neutering of a tomcat that weighs less than four kilos: 68"
    assert sentences(f"{long}\n- Claws: 12") == [long, "- Claws: 12"]
    wrapped = "The practice by the old canal, which is led by Fiona\nTregear"
    assert sentences(f"{wrapped}\nOpening times") == [wrapped.replace("\n", " "), "Opening times"]


def test_opening_tells_the_topic_of_a_long_text_without_a_title():
    letter = ["Dear Ida,", "Thank you for your harp.", "It sounds well.", *["It rained."] * 6]

    def topic(lines):
        return passages("\n".join(lines), len, 400)[0].topic

    assert topic(letter) == ("thank", "harp", "sounds", "well")
    assert topic(["The harp of Ida", "", *letter]) == topic(letter[:7]) == ()


def test_passages_hold_every_sentence_once_and_fit():
    text = "The ferry\n\n" + " ".join(f"Line {i} has {i} ropes." for i in range(40))
    found = passages(text, lambda line: len(line.split()), 30)
    own = [line for part in found for line in part.sentences[part.begin :]]
    assert own == [f"Line {i} has {i} ropes." for i in range(40)]
    assert all(sum(len(line.split()) for line in part.sentences) <= 30 + 5 for part in found)
    assert all(part.title == "The ferry" for part in found)
    assert all(a.sentences[-1] == b.sentences[0] for a, b in zip(found, found[1:], strict=False))


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("Marlow 7 pump, service manual\n\nThe Marlow 7 pump leaks.", "the Marlow 7 pump"),
        ("Minutes of the Harrow Lane society, 14 May\n\nNine came.", "the Harrow Lane society"),
        ("Price list of Hobbs repairs\n\nA tube is dear.", "Hobbs repairs"),
        ("Ada and the goat\n\nAda had a goat. The goat sang.", "Ada and the goat"),
        ("To the keeper of the Aldis Inn\n\nWe slept at the Aldis Inn.", "the Aldis Inn"),
        ("What has changed in Rill 2\n\nRill 2 is fast.", "Rill 2"),
        ("Visiting the Museum of Ropes\n\nIt is open.", "the Museum of Ropes"),
        ("Correction slip for the Rill pump\n\nIt holds nine litres.", "the Rill pump"),
        ("Correction to the minutes of the Rill club\n\nAda paid.", "the Rill club"),
        ("How to play Thornrill\n\nYou need a board.", "Thornrill"),
        ("Ada Vent cellar fan: its use\n\nThe Ada Vent draws air in.", "the Ada Vent"),
        ("Lower Rill choir\n\nThe Lower Rill road is shut.", "Lower Rill choir"),
        ("Prices of the Pedal Shed\n\nA bell is dear.", "the Pedal Shed"),
        ("Ingrid Valtersen was a cartographer. She drew.", "Ingrid Valtersen"),
        ("nothing here is a name", "nothing name"),
        ("Minutes: Rill Lane Group, 4 March\n\nAll came.", "Rill Lane Group"),
        ("Notice: The mill bridge is shut\n\nThe mill bridge leaks.", "the mill bridge"),
        ("Dear Ida,\nThe harp is mended.\nLove,\nyour Rosa", "the letter from Rosa to Ida"),
    ],
)
def test_subject_of_a_text(text, about):
    assert passages(text, len, 10_000)[0].about == about


def test_subject_of_an_empty_text():
    assert subject("", []) == ""


def test_content_words_are_nouns_numbers_and_names():
    assert telling("The pump of Tessin must be rinsed 3 times.") == [
        "pump",
        "tessin",
        "rinsed",
        "3",
        "times",
    ]
