"""Definition questions are answered with what introduces their subject."""

import functools
from types import SimpleNamespace

import pytest
from recited import document, new_talker

from nestling.continual.study import recall
from nestling.continual.study.alike import meant
from nestling.continual.study.definition import (
    Definition,
    asks_for_all,
    defines,
    definition,
    introduces,
    introducing,
)
from nestling.continual.study.form import plain
from nestling.continual.study.recite import Sentence

PUMP, CHOIR, BAKER = "the Marlow 7 pump", "the harbour choir of Sandwick", "the baker of Quillen"
LETTER, QUIST = "the letter from Ida Holm to Mr Voss", "Theodora Quist"


@pytest.fixture(scope="module")
def talker():
    return new_talker()


@pytest.mark.parametrize(
    ("question", "subject", "all"),
    [
        ("What is Zikipot?", "Zikipot", False),
        ("what's the Marlow 7 pump for", "the Marlow 7 pump", False),
        ("whats the Marlow\n7 pump used for?", "the Marlow 7 pump", False),
        ("Who were the Sandwick singers?", "the Sandwick singers", False),
        ("What does the package gap do?", "the package gap", False),
        ("What is the letter from Ida Holm about?", "the letter from Ida Holm", False),
        ("Do you know who Ada Voss is?", "Ada Voss", False),
        ("So, tell me who Ada Voss was, please.", "Ada Voss", False),
        ("Tell me more about Ada Voss.", "Ada Voss", True),
        ("What can you tell me about Ada Voss?", "Ada Voss", True),
        ("Can you please describe the pump?", "the pump", True),
        ("What have you read about Sandwick?", "Sandwick", True),
        ("What did you learn about Sandwick?", "Sandwick", True),
        ("Give me a summary of the letter!", "the letter", True),
        ('"Summarise the letter."', "the letter", True),
    ],
)
def test_definition_question_has_a_subject(question, subject, all):
    assert definition(question) == Definition(subject, all)


@pytest.mark.parametrize(
    "question",
    [
        "What is it?",
        "Who is she?",
        "When is the pump old?",
        "The pump?",
        "",
        "?",
        "What is " + "x" * 300,
    ],
)
def test_other_questions_are_no_definition_questions(question):
    assert definition(question) is None


def is_about(talker, question, about):
    asked = definition(question)
    return asked is not None and defines(talker.text, asked, document(about))


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("What is the Marlow 7 pump?", PUMP),
        ("what is the marlow 7 pump for", PUMP),
        ("What is Marlow 7's pump?", PUMP),
        ("Explain the Marlow pump", PUMP),
        ("Who is the Sandwick choir?", CHOIR),
        ("What is the letter from Ida Holm about?", LETTER),
        ("What is the package gap for?", "the package gap"),
        ("Who is Quist?", QUIST),
        ("who is theodora quist", QUIST),
        ("What is Ida's diary?", "Ida's diary"),
        ("Tell me about beekeeping.", "Beekeeping"),
        ("What are the opening hours?", "Opening Hours"),
    ],
)
def test_subject_of_a_document(talker, question, about):
    assert is_about(talker, question, about)


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("What is the Marlow 7 lamp?", PUMP),
        ("What is in the Marlow 7 pump?", PUMP),
        ("What is the Marlow 7 pump not for?", PUMP),
        ("What is the price of the Marlow 7 pump?", PUMP),
        ("Who is the keeper of the Marlow 7 pump?", PUMP),
        ("What is the pump?", PUMP),
        ("Who is in the harbour choir of Sandwick?", CHOIR),
        ("What is the harbour of Sandwick?", CHOIR),
        ("Who is Ida Holm?", LETTER),
        ("Who was Theodora Quist with?", QUIST),
        ("What did Theodora Quist not do?", QUIST),
        ("Describe where Theodora Quist was.", QUIST),
        ("Who was the previous baker of Quillen?", BAKER),
        ("What are the Sunday opening hours?", "Opening Hours"),
        ("What is the last ferry?", "the ferry"),
        ("What is beekeeping?", "beekeeping"),
        ("What is France?", ""),
    ],
)
def test_part_of_a_subject_is_another_question(talker, question, about):
    assert not is_about(talker, question, about)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("Who is Lelidis Zikipot?", "Lelidis Zikipot has a goat."),
        ("Who was Zikipot?", "The old Zikipot bought it from the captain Zikipot."),
        ("who was zikipot?", "It went to his niece Zikipot."),
        ("Who was Zikipot?", "The director, Zikipot, gave it away."),
        ("Who was Zikipot?", "The director was called Zikipot."),
        ("Tell me about Zikipot.", "There Zikipot is loved."),
    ],
)
def test_sentence_that_introduces_a_name(talker, question, sentence):
    assert introduces(talker.text, definition(question), sentence)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What is Zikipot?", "Call us on Zikipot."),
        ("What is Zikipot?", "It runs Zikipot 16."),
        ("What is waterproofing?", "Waterproofing is needed."),
        ("WHAT IS WATERPROOFING?", "It needs waterproofing."),
        ("Who is the brother of Zikipot?", "Zikipot bought it."),
        ("Who is visiting Zikipot?", "Zikipot bought it."),
        ("Who is Zikipot?", "The goat of O is old."),
        ("Who is O?", "O is old."),  # one token, as a well-known name
    ],
)
def test_sentence_that_introduces_nothing(talker, question, sentence):
    assert not introduces(talker.text, definition(question), sentence)


def school_of(talker, **lines):
    """A school that has the sentences of each document, by its name."""

    def of(school, one):
        return [
            Sentence((*plain(talker.text, line), 0), line, None, one.name, one.sha256)
            for line in lines[one.name]
        ]

    return SimpleNamespace(learner=talker, recital=SimpleNamespace(of=of))


@pytest.fixture
def three(talker, monkeypatch):
    """Three documents, two of them about the pump, as they were read."""
    studied = [
        document(about, name=name)._replace(sha256=name)
        for about, name in (("the ferry", "other"), (PUMP, "first"), (PUMP, "later"))
    ]
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=tuple(studied)))
    return studied


def test_documents_are_told_in_the_order_they_were_read(talker, three, monkeypatch):
    other, first, later = three
    school = school_of(
        talker, first=["It is blue.", "It is old."], later=["It was sold."], other=["It floats."]
    )
    found = recall.introduced(school, "What is the Marlow 7 pump?", [later, first])
    assert (found.text, found.source, found.document) == ("It is blue.", "first", "first")
    assert talker.text.decode(found.ids) == "It is blue."
    # even one that the question seems not to concern
    every = functools.partial(recall.introduced, school, "Tell me about the Marlow 7 pump")
    found = every([later])
    assert found.text == "It is blue. It is old. It was sold." and found.source == "first, later"
    monkeypatch.setattr(recall, "MOST", len(plain(talker.text, found.text)) - 1)
    found = every([later, first])
    assert found.text == "It is blue. It is old." and found.source == "first"
    assert every([]).text == found.text


def test_name_in_a_document_is_told_from_those_the_question_concerns(talker, three):
    other, first, later = three
    school = school_of(
        talker,
        first=["It is old."],
        later=["Zikipot sold it.", "I like Zikipot."],
        other=["Zikipot came."],
    )
    told = functools.partial(recall.introduced, school)
    assert told("Tell me about Zikipot.", [later, first]).text == "Zikipot sold it. I like Zikipot."
    assert told("Who is Zikipot?", [later, other]).text == "Zikipot came."
    assert told("Who is Zikipot?", [first]) is None
    assert told("Who sold it?", [later]) is None


def test_who_wants_a_name(talker):
    baker = document(BAKER)._replace(sha256="baker")
    lines = ["The baker of Quillen rises at four.", "It is the shop of Tom Orr."]
    said = [Sentence((), line, None) for line in lines]
    asked = functools.partial(introducing, talker.text, studied=[baker], near=[])
    [found] = asked("Who is the baker of Quillen?", recited=lambda one: said)
    assert found.text == lines[1]
    assert asked("Who is the baker of Quillen?", recited=lambda one: said[:1]) == []
    assert len(asked("Describe the baker of Quillen", recited=lambda one: said)) == 2


def test_a_model_tells_what_it_studied(talker):
    [one] = talker.state.studied
    line = "Lelidis Zikipot keeps a goat at home."
    said = Sentence(
        (*plain(talker.text, line), 0), line, meant(talker.reader, talker.text, line), one.name
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talker.school.recital, "of", lambda *given: [said])
        assert talker.answer("Who is Lelidis Zikipot?") == (line, one.name)
        assert talker.answer("Tell me about Zikipot") == (line, one.name)


@pytest.mark.parametrize(
    "question",
    [
        "What have you read?",
        "what did you learn so far",
        "Which documents have you studied?",
        "Please, what have you been reading?",
        "What do you know?",
    ],
)
def test_subjects_of_all_documents_are_told(talker, monkeypatch, question):
    one, other = document(PUMP, name="a.txt"), document("", name="b.txt")
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one, other, one)))
    told = "I have read about the Marlow 7 pump and b.txt."
    assert talker.answer(question) == (told, "a.txt, b.txt")
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one,)))
    assert talker.answer(question) == ("I have read about the Marlow 7 pump.", "a.txt")
    assert recall.subjects(talker.text, ()) is None


def test_list_of_subjects_says_how_many_it_leaves_out(talker, monkeypatch):
    studied = [document(f"the ferry {number}") for number in range(40)]
    monkeypatch.setattr(recall, "MOST", 60)
    found = recall.subjects(talker.text, studied)
    count = found.text.count("the ferry")
    assert 1 < count < 40 and found.text.endswith(f" and {40 - count} more.")
    assert len(found.ids) <= 60


@pytest.mark.parametrize(
    "question", ["What have you read about Rome?", "What?", "Have you read it?"]
)
def test_other_questions_are_not_about_all(question):
    assert not asks_for_all(question)
