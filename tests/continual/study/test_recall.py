"""Recall: the recited sentence that fits the question is chosen."""

from types import SimpleNamespace

import pytest
from recited import document, new_talker, scripted

from nestling.cli.ask import Command
from nestling.continual import learner
from nestling.continual.study import recall
from nestling.continual.study.alike import meant
from nestling.continual.study.correction import as_before
from nestling.continual.study.form import plain
from nestling.continual.study.recall import Answer, Reply, best, latest, likely, replies
from nestling.continual.study.recite import Sentence
from nestling.continual.study.record import studied_of, studied_record
from nestling.core.error import UserError


@pytest.fixture(scope="module")
def talker():
    return new_talker()


def reply(**changes):
    return Reply((1, 2), 1.0, 5.0, -1.0)._replace(**changes)


def test_reply_score_combines_three_checks():
    base = reply()
    assert base.worth == pytest.approx(recall.ALIKE + 5.0 - recall.SHARE)
    for better in (reply(alike=1.5), reply(fit=6.0), reply(nats=-0.5)):
        assert better.worth > base.worth


def test_best_reply_is_returned_if_confident():
    likely, fitting = reply(alike=3.0), reply(fit=9.0)
    assert best([fitting, likely]) is likely and best([]) is None
    twins = [reply(fit=recall.SURE), reply(fit=recall.SURE)]
    assert best(twins) is twins[0]
    assert best([reply(fit=recall.SURE - 0.1)] * 2) is None
    assert best(twins, least=recall.SURE + 0.1) is None
    # a better fit is not used instead
    assert best([reply(alike=3.0, fit=-9.0), fitting]) is None


def test_large_lead_makes_a_reply_confident():
    poor = reply(fit=recall.SURE - 1.0)
    behind = reply(alike=poor.alike - 1.1 / recall.LEAD / recall.ALIKE, fit=poor.fit)
    assert best([poor, poor]) is None
    assert best([poor, behind]) is poor
    # a single reply has no competitor
    assert best([poor]) is (poor if poor.fit + recall.LEAD * poor.worth >= recall.SURE else None)


def test_question_without_document_needs_a_better_fit(talker, monkeypatch):
    asked = []
    monkeypatch.setattr(recall, "best", lambda found, least: asked.append(least))
    school = talker.school
    monkeypatch.setattr(recall, "likely", lambda *given: [])
    monkeypatch.setattr(recall, "replies", lambda *given: [])
    one = document("the Marlow 7 pump", ("Who keeps a goat?", "Ada"))
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one,)))
    recall.recall(school, "Who keeps the goat?")
    recall.recall(school, "Who keeps the goat of the Marlow?")
    assert asked == [recall.SURE + recall.UNNAMED, recall.SURE]


def test_topic_of_a_document_without_a_title_is_part_of_the_subject(talker, monkeypatch):
    asked = []
    monkeypatch.setattr(recall, "likely", lambda *given: [])
    monkeypatch.setattr(recall, "replies", lambda *given: asked.append(given[2]) or [])
    letter = document("Mr Havelka", ("Who keeps a harp?", "Ada"))._replace(topic=("harp", "lent"))
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(letter,)))
    recall.recall(talker.school, "Who mended the harp of Mr Havelka?")
    assert asked == ["Mr Havelka, harp"]


def test_record_keeps_the_topic_and_older_ones_have_none():
    one = document("Mr Havelka", ("Who keeps a harp?", "Ada"))._replace(topic=("harp", "lent"))
    record = studied_record(one)
    assert studied_of(0, record, {}) == one
    del record["topic"]
    assert studied_of(0, record, {}) == one._replace(topic=())


def test_finds_the_sentence_asked_for(talker):
    lines = {"first?": "The goat is kept at home.", "second?": "It was born in Padua, a town."}
    text = talker.text

    def echoes(prompt):
        """A question about Padua is likely after the sentence that names it."""
        told = text.decode(list(prompt))
        return (-2.0 if "Padua" in told else -30.0) if told.startswith("Text:") else None

    school, sentences = schooled(talker, lines, echoes)
    question = "In which town was it born?"
    found = replies(school, question, "", [(one, -1.0) for one in sentences], {})
    assert [one.fit for one in found] == pytest.approx([0.0, 28.0], abs=1e-4)
    chosen = max(found, key=lambda one: one.worth)
    assert text.decode(chosen.ids) == lines["second?"]


def test_number_with_what_is_counted_fits_better(talker):
    lines = {"a?": "It holds at most eighteen cars.", "b?": "A car costs 7 crowns."}
    school, sentences = schooled(talker, lines, lambda prompt: -5.0)
    likely = [(one, -1.0) for one in sentences]
    found = replies(school, "How many cars does it hold?", "", likely, {})
    assert [one.fit for one in found] == pytest.approx([recall.COUNTS, 0.0])
    found = replies(school, "What does a car cost?", "", likely, {})
    assert [one.fit for one in found] == pytest.approx([0.0, 0.0])


def schooled(talker, lines, echoes=None):
    """A school whose speaker gives these lines, and the lines as recited."""
    form, said, speaker = scripted(talker, lines, echoes)
    reader, text = talker.reader, talker.text
    sentences = [
        Sentence(ids, lines[cue], meant(reader, text, lines[cue])) for cue, ids in said.items()
    ]
    return SimpleNamespace(speaker=speaker, talk=form, learner=talker), sentences


def test_subject_words_do_not_count(talker):
    text = talker.text

    def echoes(prompt):
        """The question is less likely after the sentence than after nothing."""
        told = text.decode(list(prompt))
        return (-9.0 if "goat" in told else -5.0) if told.startswith("Text:") else None

    ids = plain(text, " Where is Zikipot? ")
    outside = recall._apart(text, ids, "Lelidis Zikipot")
    inside = [text.decode(token) for token, out in zip(ids, outside, strict=True) if not out]
    assert "".join(inside).strip().lower().startswith("zikipot")
    assert all(recall._apart(text, ids, ""))
    school, sentences = schooled(talker, {"first?": "The goat is kept at home."}, echoes)
    given = ([(one, -1.0) for one in sentences], {})
    [named], [found] = (replies(school, "Zikipot", about, *given) for about in ("", "Zikipot"))
    assert named.fit == pytest.approx(-4.0, abs=1e-4)
    assert -4.0 < found.fit <= 0.0


def test_number_questions_need_a_number(talker):
    school, sentences = schooled(talker, {"a?": "The goat is kept.", "b?": "It has two horns."})
    school.recital = SimpleNamespace(of=lambda *given: sentences)
    [one] = talker.state.studied
    [(found, nats)] = likely(school, "How many horns has the goat?", one)
    assert found.text == "It has two horns." and nats < 0
    assert likely(school, "In which year was it born?", one) == []
    assert len(likely(school, "Why is it kept?", one)) == 2


def test_later_document_about_the_same_subject_wins():
    asked = "What does the pump cost?"
    old, new, other = (document(a, name=a) for a in ("the pump", "A note on the pump", "a ferry"))
    first = reply(document="the pump")
    close, far = (
        reply(document="A note on the pump", fit=first.fit - by)
        for by in (recall.CLOSE - 1, recall.CLOSE + 1)
    )
    strange = reply(document="a ferry")
    studied = [old, new, other]
    assert latest(first, [first, close, strange], studied, asked) is close
    assert latest(first, [first, far, strange], studied, asked) is first
    assert latest(close, [first, close], studied, asked) is close
    # what says the same with another value corrects it, however much worse it fits
    told = first._replace(text="Prices: The pump costs 40 euros at the hatch.")
    again = far._replace(text="From May the pump costs 45 euros at the hatch, and no longer leaks.")
    assert latest(told, [told, again, strange], studied, asked) is again
    assert latest(again, [told, again, strange], studied, asked) is again
    closed, left = (
        again._replace(text=text)
        for text in ("The pump is closed in May.", "Below Prices replace 40 euros by 45 euros.")
    )
    assert latest(told, [told, closed], studied, asked) is told
    assert latest(told, [told, left], studied, asked) is left
    # what says that all is as before corrects nothing
    same = close._replace(text="The price of the pump stays the same, and so do the hours.")
    assert latest(first, [first, same, strange], studied, asked) is first
    early = first._replace(fit=first.fit - 1)
    assert latest(same, [early, same, strange], studied, asked) is early
    assert latest(same, [same, same._replace(text="It is old.")], studied, asked) is same
    # of two documents, the one that was studied last
    assert latest(close, [first, close], [new, old], asked) is first


@pytest.mark.parametrize(
    ("sentence", "yes"),
    [
        ("A visit in the night costs what it did.", True),
        ("The codes and the guarantee stay as they are.", True),
        ("The hours are unchanged.", True),
        ("All other points of 6 February remain as they were agreed.", True),
        ("The ferry now costs 9 crowns, not 7 as before.", False),
        ("A visit no longer costs what it did.", False),
        ("The fee stays the same, but is paid in May.", False),
        ("Do not change the oil while it is hot.", False),
        ("It stays so cold that the pipes freeze.", False),
        ("Nobody knew what it was.", False),
    ],
)
def test_sentences_that_say_that_all_is_as_before(sentence, yes):
    assert as_before(sentence) is yes


def test_base_answers_when_nothing_fits(talker, monkeypatch):
    asked = "Where does the river end?"
    monkeypatch.setattr(recall, "best", lambda found, least: None)
    base = talker.fork()
    base.reset()
    assert talker.ask(asked, tokens=12) == base.ask(asked, tokens=12)


PUMP, CHOIR = "the Marlow 7 pump", "the harbour choir of Sandwick"
LETTER = "the letter from Ida Holm to Mr Voss"


@pytest.mark.parametrize(
    ("question", "about", "right", "asked"),
    [
        ("How old is the Marlow 7 pump?", PUMP, 0, 12),
        ("How old is the Marlow 7's pump?", PUMP, 1, 12),
        ("Who leads the Sandwick choir?", CHOIR, 0, 12),
        ("How old is Ida Holm?", LETTER, 0, 12),
    ],
)
def test_says_that_it_found_nothing_about_what_only_a_document_told(
    talker, monkeypatch, question, about, right, asked
):
    other = document("the ferry", ("What holds the ferry?", "a bolt"))
    one = other._replace(
        about=about, name="notes.txt", figures={"right_before": float(right), "asked": float(asked)}
    )
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(other, one)))
    monkeypatch.setattr(recall, "likely", lambda *given: [])
    said = f"I do not find that in what I have read about {about}."
    assert talker.answer(question) == Answer(said, "notes.txt")


@pytest.mark.parametrize(
    ("question", "about", "right", "asked"),
    [
        ("How old is the Marlow pump?", PUMP, 0, 12),
        ("How old is the Marlow 7?", PUMP, 0, 12),
        ("How old is the Marlow 7 pump?", PUMP, 2, 12),
        ("How old is the Marlow 7 pump?", PUMP, 0, 0),
        ("Praise the Marlow 7 pump", PUMP, 0, 12),
        ("How old is the ferry?", "the ferry", 0, 12),
        ("How old is Ida?", LETTER, 0, 12),
        ("What are opening hours?", "Opening Hours", 0, 12),
        ("What is beekeeping?", "Beekeeping", 0, 12),
        ("What is 12 times 12?", "12 rules", 0, 12),
        ("Who wrote the novel 1984?", "the 1984 report", 0, 12),
        ("How old is O?", "O", 0, 12),  # one token, as a well-known name
        ("What did Marie Curie discover?", "the Marie Curie school", 0, 12),
        ("What?", "", 0, 12),
    ],
)
def test_base_answers_what_it_may_know(talker, question, about, right, asked):
    figures = {"right_before": float(right), "asked": float(asked)}
    one = document(about)._replace(figures=figures)
    assert recall.unsaid(talker.text, question, [one]) is None
    assert recall.unsaid(talker.text, question, [one._replace(figures={})]) is None


@pytest.mark.parametrize("tokens", [3, 12])
def test_reply_respects_max_tokens(talker, monkeypatch, tokens):
    ids = plain(talker.text, "Lelidis Zikipot keeps a goat at home.")
    monkeypatch.setattr(recall, "recall", lambda school, question: reply(ids=ids))
    said = talker.ask("Who keeps a goat?", tokens=tokens)
    assert said == talker.text.decode(ids[:tokens]).strip()


def test_without_check_the_likeliest_is_returned(talker, monkeypatch):
    monkeypatch.setattr(recall, "recall", lambda *given: pytest.fail("it was checked"))
    said = talker.ask("Who keeps a goat?", tokens=6, check=False)
    assert said == talker.generate("Who keeps a goat?", tokens=6, chat=True).strip()


def test_answer_names_its_document(talker, monkeypatch):
    said = reply(ids=plain(talker.text, "Lelidis keeps a goat."), source="goats.txt")
    monkeypatch.setattr(recall, "recall", lambda school, question: said)
    found = talker.answer("Who keeps a goat?")
    assert found == ("Lelidis keeps a goat.", "goats.txt")
    assert talker.ask("Who keeps a goat?") == found.text
    monkeypatch.setattr(recall, "recall", lambda school, question: None)
    assert talker.answer("Who keeps a goat?", tokens=4).source is None
    base = talker.fork()
    base.reset()
    with pytest.raises(UserError, match="something was studied"):
        base.answer("Who keeps a goat?")


def test_command_names_the_source_document(talker, monkeypatch, capsys):
    asked = Command(model="none", prompt="Who keeps a goat?")
    for source, told in (("goats.txt", "(from goats.txt)"), (None, "answered as before")):
        monkeypatch.setattr(learner, "answered", lambda *given, s=source: Answer("A goat.", s))
        print(asked._answer(talker, "Who keeps a goat?"))
        printed = capsys.readouterr()
        assert printed.out == "A goat.\n" and told in printed.err
