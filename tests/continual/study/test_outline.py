"""Headings and lists: what a heading is said before, and what is none."""

import pytest

from nestling.continual.study.outline import outlined
from nestling.continual.study.passages import passages
from nestling.continual.study.sentence import replies
from nestling.continual.study.words import sentences

MINUTES = """Minutes of the boat club

1. Accidents. Two were reported in June. The jetty was not to blame.
2. Paint. The hulls will be green.
3. Fire drill. The next one is on 4 May.
"""
KIT = """The Osier kit

The kit contains:
- 40 g of wax
- a brush of Danish hair
- The lid is sold apart by Orla Fenn.

Opening hours
- Mondays from nine to one
- Fridays from two to six

Known faults
The lid sticks in frost. This can be cured with soap.
"""


def told(text):
    [one] = passages(text, lambda line: len(line.split()), 400)
    return one, replies(one)


def test_numbered_headings_go_to_their_first_sentence():
    one, said = told(MINUTES)
    assert said == [
        "Accidents: Two were reported in June.",
        "The jetty was not to blame.",
        "Paint: The hulls will be green.",
        "Fire drill: The next one is on 4 May.",
    ]
    assert one.sentences[0] == "Two were reported in June."  # questions are made of this
    assert "Accidents: Two" in one.text  # and judged with this in the context


def test_items_finish_the_clause_of_their_heading_or_stand_below_it():
    _, said = told(KIT)
    assert said[:3] == [
        "The kit contains 40 g of wax",
        "The kit contains a brush of Danish hair",
        "The lid is sold apart by Orla Fenn.",
    ]
    assert said[3:5] == [
        "Opening hours: Mondays from nine to one",
        "Opening hours: Fridays from two to six",
    ]


RINK = """The Elm rink: times and prices

Opening times (from 1 October)
Monday: closed for training
Friday: 2 pm to 8 pm

Prices
Adults: 6.40 euros
Children 3 euros

Sticks may not be brought along."""


def test_rows_of_a_table_are_said_below_their_heading():
    _, said = told(RINK)
    assert said == [
        "Opening times (from 1 October): Monday: closed for training",
        "Opening times: Friday: 2 pm to 8 pm",
        "Prices: Adults: 6.40 euros",
        "Prices: Children 3 euros",
        "Sticks may not be brought along.",
    ]


def test_without_a_title_a_name_is_the_subject_only_where_a_sentence_begins_with_it():
    letter = "Dear Mr Osk,\n\nTake the train to Karsk. It leaves at nine. {} is old. It rattles."
    for name, joint in (("The bus", 1), ("Mr Osk", 0)):
        one, said = told(letter.format(name))
        assert one.title == "" and one.about == "Mr Osk"
        assert sum("Mr Osk rattles" in line for line in said) == 1 - joint
        assert said.count("The bus is old. It rattles.") == 2 * joint


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ("The Osk lift: correction of 4 May.\n", "The Osk lift: correction of 4 May"),
        ("The Osk lift: correction of 4 May.", ""),  # no blank line
        ("The Osk lift is closed.\n", ""),
        ("Closed on Mondays.\n", ""),
    ],
)
def test_title_may_end_with_a_full_stop_if_it_states_nothing(first, title):
    one, said = told(f"{first}\nThe Osk lift opens at nine. It closes at five.")
    assert one.title == title
    assert len(said) == (2 if title else 3)


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ("", "The Osk lift"),
        ("Correction of 4 May\n\n", "The Osk lift: Correction of 4 May"),
        ("News of the Osk lift\n\n", "News of the Osk lift"),
    ],
)
def test_given_subject_stands_for_pronouns_and_before_the_title(first, title):
    text = f"{first}It opens at ten. It closes at five."
    parts = passages(text, len, 10_000, "the Osk lift")
    assert {(one.title, one.about, one.topic) for one in parts} == {(title, "the Osk lift", ())}
    assert replies(parts[0])[0] == "The Osk lift opens at ten."


def test_sentence_about_the_one_before_is_said_with_it():
    one, said = told(KIT)
    both = "Known faults: The lid sticks in frost. This can be cured with soap."
    assert said[-2:] == [both, both] and len(one.sentences) == len(said)


@pytest.mark.parametrize(
    "text",
    [
        "Salt\nFlour\nWater\nMix all of it and wait.",  # rows of a list without marks
        "Wool 12 euros\nSilk 20 euros\nAll prices hold until May.",
        "It is late. Wait. The ferry comes at nine.",
        "1. Open the lid.\n2. Pour the oil.\n3. Wait.",
        "A. Smith wrote it.",
    ],
)
def test_what_is_no_heading_stays_a_sentence(text):
    lines = sentences(text)
    kept = [line for line in lines if len(line) > 2]
    assert [line.text for line in outlined(lines)] == kept
    assert not any(line.head for line in outlined(lines))


def test_last_line_is_never_a_heading():
    assert [line.text for line in outlined(["It leaks.", "You need:"])] == [
        "It leaks.",
        "You need:",
    ]
    assert [line.text for line in outlined(["1."])] == ["1."]
