"""Definition questions are answered with what introduces their subject."""

from types import SimpleNamespace

import pytest
from recited import document, new_talker

from nestling.continual.study import recall
from nestling.continual.study.alike import meant
from nestling.continual.study.definition import Definition, defines, definition, mentions
from nestling.continual.study.form import plain
from nestling.continual.study.recite import Sentence

PUMP, CHOIR = "the Marlow 7 pump", "the harbour choir of Sandwick"
LETTER = "the letter from Ida Holm to Mr Voss"


@pytest.fixture(scope="module")
def talker():
    return new_talker()


@pytest.mark.parametrize(
    ("question", "subject", "all"),
    [
        ("What is Zikipot?", "Zikipot", False),
        ("what's the Marlow 7 pump for", "the Marlow 7 pump", False),
        ("Who were the Sandwick singers?", "the Sandwick singers", False),
        ("What does the package gap do?", "the package gap", False),
        ("What is the letter from Ida Holm about?", "the letter from Ida Holm", False),
        ("Tell me more about Ada Voss.", "Ada Voss", True),
        ("Can you describe the pump?", "the pump", True),
        ("What have you read about Sandwick?", "Sandwick", True),
        ("Summarise the letter!", "the letter", True),
    ],
)
def test_definition_question_has_a_subject(question, subject, all):
    assert definition(question) == Definition(subject, all)


@pytest.mark.parametrize(
    "question",
    ["What is it?", "Who is she?", "What does it do?", "When is the pump old?", "The pump?", ""],
)
def test_other_questions_are_no_definition_questions(question):
    assert definition(question) is None


@pytest.mark.parametrize(
    ("question", "about", "whole"),
    [
        ("What is the Marlow 7 pump?", PUMP, True),
        ("What is the marlow 7 pump for?", PUMP, True),
        ("What is Marlow 7's pump?", PUMP, True),
        ("What is the Marlow 7 lamp?", PUMP, False),
        ("What is the price of the Marlow 7 pump?", PUMP, False),
        ("What is the Marlow 7 pump price?", PUMP, False),
        ("Who is the keeper of the Marlow 7 pump?", PUMP, False),
        ("Who is the Sandwick choir?", CHOIR, True),
        ("Who is the choir?", CHOIR, False),
        ("What is the letter from Ida Holm about?", LETTER, True),
        ("What is the letter from Ida Holm to Mr Voss about?", LETTER, True),
        ("What is the package gap for?", "gap", True),
        ("What is gap?", "the package gap", False),
        ("What is the price of gap?", "gap", False),
        ("What is beekeeping?", "Beekeeping", False),
        ("Tell me about beekeeping.", "Beekeeping", True),
        ("What are the opening hours?", "Opening Hours", True),
        ("What are opening hours?", "Opening Hours", False),
        ("What is France?", "", False),
    ],
)
def test_subject_of_a_document(talker, question, about, whole):
    asked = definition(question)
    assert asked is not None
    assert defines(talker.text, asked, document(about)) == whole


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Who is Lelidis Zikipot?", [1, 2]),
        ("Who was Zikipot?", [1, 2, 3]),
        ("Who is the captain Zikipot?", [1, 2, 3]),
        ("Who is the brother of Zikipot?", []),
        ("Who is the goat?", []),
        ("Who is O?", []),  # one token, as a well-known name
        ("Who is Zikipot Adamar?", []),
    ],
)
def test_sentences_with_an_unusual_name(talker, question, found):
    said = [
        "The goat of O is old.",
        "Lelidis Zikipot has it.",
        "It is Lelidis Zikipot's.",
        "Zikipot bought it.",
    ]
    assert mentions(talker.text, definition(question), said) == found


def school_of(talker, **lines):
    """A school that has the sentences of each document by its name, and what it studied."""

    def of(school, one):
        return [
            Sentence((*plain(talker.text, line), 0), line, None, one.name, one.sha256)
            for line in lines[one.name]
        ]

    return SimpleNamespace(learner=talker, recital=SimpleNamespace(of=of))


def test_documents_are_told_in_the_order_they_were_read(talker, monkeypatch):
    first, later, other = (
        document(about, name=name)._replace(sha256=name)
        for about, name in ((PUMP, "first"), (PUMP, "later"), ("the ferry", "other"))
    )
    studied = (other, first, later)
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=studied))
    school = school_of(
        talker, first=["It is blue.", "It is old."], later=["It was sold."], other=["It floats."]
    )
    asked = Definition(PUMP, False)
    found = recall.introduced(school, asked, [later, first, other])
    assert (found.text, found.source, found.document) == ("It is blue.", "first", "first")
    assert talker.text.decode(found.ids) == "It is blue."
    found = recall.introduced(school, asked._replace(all=True), [later, first, other])
    assert found.text == "It is blue. It is old. It was sold."
    monkeypatch.setattr(recall, "MOST", len(plain(talker.text, found.text)) - 1)
    found = recall.introduced(school, asked._replace(all=True), [later, first, other])
    assert found.text == "It is blue. It is old."
    school = school_of(talker, first=[], later=["Zikipot sold it."], other=["Zikipot came."])
    assert recall.introduced(school, asked, [first]) is None
    found = recall.introduced(school, Definition("Zikipot", True), [other, later])
    assert found.text == "Zikipot came. Zikipot sold it." and found.source == "other"


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
    ["What have you read?", "what did you learn so far", "What documents have you studied?"],
)
def test_subjects_of_all_documents_are_told(talker, monkeypatch, question):
    one, other = document(PUMP, name="a.txt"), document("", name="b.txt")
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one, other, one)))
    assert talker.answer(question) == (
        "I have read about the Marlow 7 pump and b.txt.",
        "a.txt, b.txt",
    )
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one,)))
    assert talker.answer(question) == ("I have read about the Marlow 7 pump.", "a.txt")
    assert recall.subjects(talker.text, ()) is None
