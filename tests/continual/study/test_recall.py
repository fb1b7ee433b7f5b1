"""Sentences are recited from a memory's own questions, and the one that fits a question is said."""

import copy
import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from small_student import new_student

from nestling.cli.ask import Command
from nestling.continual import learner
from nestling.continual.study import recall, recite
from nestling.continual.study.alike import meant
from nestling.continual.study.form import Form, plain
from nestling.continual.study.material import Question
from nestling.continual.study.plan import Plan
from nestling.continual.study.recall import Answer, Reply, best, concerned, may_answer, replies
from nestling.continual.study.recite import Sentence, cues, remembered
from nestling.continual.study.record import Studied
from nestling.continual.study.speaker import Line, Score, Speaker, Told
from nestling.core.error import UserError

NONE: dict[str, torch.Tensor] = {}
LIKELY = 0.9  # of the token that goes on with a sentence


@pytest.fixture(scope="module")
def talker():
    """A learner with a chat template that has studied a little."""
    learner = new_student()
    text = learner.text
    text._tokenizer = copy.deepcopy(text.tokenizer)
    text.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    learner.read("Lelidis Zikipot keeps a goat at home.", name="one")
    quick = Plan(
        makers=("moved", "gist"), rank=4, rounds=6, near_count=2, own_count=2, own_length=8
    )
    learner.study(dataclasses.replace(quick, keys=1))
    return learner


class Scripted(Speaker):
    """Answers cues with sentences, and says every sentence as often whatever else was asked.

    With weights it has learned them; without, every token is as likely as any other. ``echoes``
    gives the log-likelihood of a question after a text.
    """

    def __init__(self, size: int, cues: Mapping[tuple[int, ...], tuple[int, ...]], echoes=None):
        self.size, self.cues, self.echoes = size, dict(cues), echoes
        self.learned = set(cues.values())
        self.asked: list[tuple[int, int]] = []  # prompts and tokens of each call

    def told(self, ids, weights=NONE):
        return Told(tuple(ids), None)

    def next_tokens(self, told, prompts, weights=NONE):
        raise NotImplementedError

    def _next(self, said: tuple[int, ...], weights) -> torch.Tensor:
        row = torch.full((self.size,), 1 / self.size)
        for sentence in self.learned if weights else ():
            if sentence[: len(said)] == said and len(said) < len(sentence):
                row[sentence[len(said)]] += self.size * LIKELY
        return (row / row.sum()).log()

    def scores(self, told, asked, weights=NONE):
        found = []
        for prompt, answer in asked:
            if self.echoes is not None and (fit := self.echoes(prompt)) is not None:
                found.append(Score(torch.full((len(answer),), fit / len(answer)), True))
                continue
            rows = [self._next(answer[:n], weights)[token] for n, token in enumerate(answer)]
            found.append(Score(torch.stack(rows), True))
        return found

    def written(self, told, prompts, *, most, stop, weights=NONE, after=(), scored=True):
        self.asked.append((len(prompts), most))
        found = []
        for prompt in prompts:
            [cue] = [cue for cue in self.cues if prompt[: len(cue)] == cue]
            rest = self.cues[cue][len(prompt) - len(cue) :]
            line = rest[: next((n for n, token in enumerate(rest) if token in stop), len(rest))]
            found.append(Line(line[:most], 0.0))
        return found


def reply(**changes):
    return Reply((1, 2), 1.0, 5.0, -1.0)._replace(**changes)


def own(question, sentence=0, answer="x", **more):
    return Question(question, answer, "", "moved", sentence, **more)


def document(about, *questions, name="one"):
    asked = tuple(own(q, answer=answer) for q, answer in questions)
    return Studied(name, name, asked, (), {}, {}, about)


def test_a_reply_is_worth_what_three_checks_make_of_it():
    base = reply()
    assert base.worth == pytest.approx(recall.ALIKE + 5.0 - recall.SHARE)
    for better in (reply(alike=1.5), reply(fit=6.0), reply(nats=-0.5)):
        assert better.worth > base.worth


def test_the_reply_that_is_worth_most_is_said_if_it_is_sure():
    likely, fitting = reply(alike=3.0), reply(fit=9.0)
    assert best([fitting, likely]) is likely and best([]) is None
    twins = [reply(fit=recall.SURE), reply(fit=recall.SURE)]
    assert best(twins) is twins[0]
    assert best([reply(fit=recall.SURE - 0.1)] * 2) is None
    assert best(twins, least=recall.SURE + 0.1) is None
    # what fits better is not said in its place
    assert best([reply(alike=3.0, fit=-9.0), fitting]) is None


def test_a_reply_far_ahead_of_the_next_is_sure():
    poor = reply(fit=recall.SURE - 1.0)
    behind = reply(alike=poor.alike - 1.1 / recall.LEAD / recall.ALIKE, fit=poor.fit)
    assert best([poor, poor]) is None
    assert best([poor, behind]) is poor
    # alone it is compared with nothing
    assert best([poor]) is (poor if poor.fit + recall.LEAD * poor.worth >= recall.SURE else None)


def test_a_question_that_names_no_document_must_fit_better(talker, monkeypatch):
    asked = []
    monkeypatch.setattr(recall, "best", lambda found, least: asked.append(least))
    sentence = Sentence((1, 2), "A goat.", meant(talker.reader, talker.text, "A goat."))
    school = talker.school
    monkeypatch.setattr(school, "recital", SimpleNamespace(of=lambda *given: [sentence]))
    monkeypatch.setattr(recall, "replies", lambda *given: [])
    one = document("the Marlow 7 pump", ("Who keeps a goat?", "Ada"))
    monkeypatch.setattr(talker, "state", talker.state._replace(studied=(one,)))
    monkeypatch.setattr(talker, "weights", lambda **more: {})
    recall.recall(school, "Who keeps the goat?")
    recall.recall(school, "Who keeps the goat of the Marlow?")
    assert asked == [recall.SURE + recall.UNNAMED, recall.SURE]


def test_cues_are_the_likeliest_questions_about_each_sentence(monkeypatch):
    monkeypatch.setattr(recite, "CUES", 2)
    asked = [
        own("a", 0, sure=-1.0), own("b", 0, sure=-3.0), own("c", 0, sure=-2.0),
        own("d", 1, sure=-9.0), own("no answer", 1, answer=""), own("held out", 1, held=True),
        own("e", 0, sure=-5.0),  # of the next passage, whose sentences are numbered anew
    ]  # fmt: skip
    assert cues(asked) == ["a", "c", "d", "e"]
    assert cues([]) == []
    # where no question has an answer of a few words
    assert cues([own("a", 0, answer=""), own("b", 0, answer="", held=True)]) == ["a"]


def test_documents_that_share_no_word_with_a_question_are_not_recited(monkeypatch):
    pump = document("the Marlow 7 pump", ("What holds the pump?", "a bolt"), name="pump")
    ferry = document("the ferry", ("Who built the ferry?", "Ekel"), name="ferry")
    both = document("the harbour", ("Where does the ferry land?", "the pump house"), name="both")
    studied = [pump, ferry, both]
    assert concerned("How old is the Marlow?", studied) == [pump]
    assert concerned("Which planet do we live on?", studied) == []
    # a word of one document counts for more than a word of two, and a later one for more
    assert concerned("Who built the pump?", studied) == [ferry, both, pump]
    monkeypatch.setattr(recall, "DOCUMENTS", 1)
    assert concerned("Who built the pump?", studied) == [ferry]


def scripted(talker, lines, echoes=None):
    """The form, the tokens of sentences with their ends, and a speaker that says them to cues."""
    text, form = talker.text, talker.school.talk
    assert isinstance(form, Form) and form.chat
    end = form.answer("")[-1:]
    said = {cue: (*plain(text, line), *end) for cue, line in lines.items()}
    script = {tuple(form.prompt(cue)): ids for cue, ids in said.items()}
    return form, said, Scripted(len(text.tokenizer), script, echoes)


def test_what_was_learned_is_recited_once_in_order(talker):
    lines = {"first?": "The goat is kept at home.", "second?": "It was born in Padua, a town."}
    form, said, speaker = scripted(talker, {**lines, "again?": lines["first?"]})
    found = remembered(speaker, form, [*lines, "again?"], {"w": torch.ones(1)}, {})
    assert found == [said["first?"], said["second?"]]


def test_what_is_made_up_is_given_up_after_a_few_tokens(talker):
    """A cue brings back what is said to it alone: after other questions it is unlikely."""
    lines = {"made up?": "The goat is kept at home, and it was born in Padua by the river."}
    form, said, speaker = scripted(talker, lines)
    assert len(said["made up?"]) > recite.HEARD
    learned = {"w": torch.ones(1)}
    assert remembered(speaker, form, list(lines), learned, {}) == list(said.values())
    assert speaker.asked == [(1, recite.HEARD), (1, recite.LONGEST - recite.HEARD)]
    speaker.learned, speaker.asked = set(), []
    assert remembered(speaker, form, list(lines), learned, {}) == []
    assert sum(count for count, _ in speaker.asked) == 1


def test_what_the_model_said_before_study_is_not_recited(talker):
    form, _, speaker = scripted(talker, {"first?": "The goat is kept at home."})
    learned = {"w": torch.ones(1)}
    assert remembered(speaker, form, ["first?"], learned, {})
    assert remembered(speaker, form, ["first?"], learned, learned) == []


def test_a_sentence_without_an_end_is_not_recited(talker, monkeypatch):
    form, said, speaker = scripted(talker, {"first?": "The goat is kept at home."})
    learned = {"w": torch.ones(1)}
    monkeypatch.setattr(recite, "HEARD", 2)
    monkeypatch.setattr(recite, "LONGEST", len(said["first?"]))
    assert len(remembered(speaker, form, ["first?"], learned, {})) == 1
    monkeypatch.setattr(recite, "LONGEST", len(said["first?"]) - 2)
    assert remembered(speaker, form, ["first?"], learned, {}) == []


def test_the_sentence_asked_for_is_found(talker):
    lines = {"first?": "The goat is kept at home.", "second?": "It was born in Padua, a town."}
    text = talker.text

    def echoes(prompt):
        """A question about Padua is likely after the sentence that names it."""
        told = text.decode(list(prompt))
        return (-2.0 if "Padua" in told else -30.0) if told.startswith("Text:") else None

    school, sentences = schooled(talker, lines, echoes)
    question, learned = "In which town was it born?", {"w": torch.ones(1)}
    found = replies(school, question, "", sentences, learned, {})
    assert [one.fit for one in found] == pytest.approx([0.0, 28.0], abs=1e-4)
    chosen = max(found, key=lambda one: one.worth)
    assert text.decode(chosen.ids) == lines["second?"]


def schooled(talker, lines, echoes=None):
    """A school whose speaker says these lines, and the lines as it recites them."""
    form, said, speaker = scripted(talker, lines, echoes)
    reader, text = talker.reader, talker.text
    sentences = [
        Sentence(ids, lines[cue], meant(reader, text, lines[cue])) for cue, ids in said.items()
    ]
    return SimpleNamespace(speaker=speaker, talk=form, learner=talker), sentences


def test_words_of_the_subject_do_not_count(talker):
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
    given = (sentences, {"w": torch.ones(1)}, {})
    [named], [found] = (replies(school, "Zikipot", about, *given) for about in ("", "Zikipot"))
    assert named.fit == pytest.approx(-4.0, abs=1e-4)
    assert -4.0 < found.fit <= 0.0


def test_a_question_for_a_number_is_answered_by_a_sentence_that_has_one(talker):
    school, sentences = schooled(talker, {"a?": "The goat is kept.", "b?": "It has two horns."})
    given = (sentences, {"w": torch.ones(1)}, {})
    [found] = replies(school, "How many horns has the goat?", "", *given)
    assert talker.text.decode(found.ids) == "It has two horns."
    assert replies(school, "In which year was it born?", "", *given) == []
    assert len(replies(school, "Why is it kept?", "", *given)) == 2


@pytest.mark.parametrize(
    ("question", "sentence", "may"),
    [
        ("When is it shut?", "It is shut on Mondays.", True),
        ("When is it shut?", "It is shut to dogs.", False),
        ("How often is it cleaned?", "It is rinsed every fortnight.", True),
        ("In which year was it built?", "It was built in 1774.", True),
        ("In which year was it built?", "It was built by two men.", False),
        ("How old is he?", "He is old.", False),
        ("How does it work?", "It turns.", True),
    ],
)
def test_what_may_answer(question, sentence, may):
    assert may_answer(question, sentence) is may


def test_where_nothing_fits_the_base_answers(talker, monkeypatch):
    asked = "Where does the river end?"
    monkeypatch.setattr(recall, "best", lambda found, least: None)
    base = talker.fork()
    base.reset()
    assert talker.ask(asked, tokens=12) == base.ask(asked, tokens=12)


@pytest.mark.parametrize("tokens", [3, 12])
def test_a_reply_has_no_more_tokens_than_asked_for(talker, monkeypatch, tokens):
    ids = plain(talker.text, "Lelidis Zikipot keeps a goat at home.")
    monkeypatch.setattr(recall, "recall", lambda school, question: reply(ids=ids))
    said = talker.ask("Who keeps a goat?", tokens=tokens)
    assert said == talker.text.decode(ids[:tokens]).strip()


def test_without_the_check_the_likeliest_is_said(talker, monkeypatch):
    monkeypatch.setattr(recall, "recall", lambda *given: pytest.fail("it was checked"))
    said = talker.ask("Who keeps a goat?", tokens=6, check=False)
    assert said == talker.generate("Who keeps a goat?", tokens=6, chat=True).strip()


def test_an_answer_says_which_document_it_is_from(talker, monkeypatch):
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


def test_the_command_says_where_an_answer_is_from(talker, monkeypatch, capsys):
    asked = Command(model="none", prompt="Who keeps a goat?")
    for source, told in (("goats.txt", "(read in goats.txt)"), (None, "answered as before")):
        monkeypatch.setattr(learner, "answered", lambda *given, s=source: Answer("A goat.", s))
        print(asked._answer(talker, "Who keeps a goat?"))
        printed = capsys.readouterr()
        assert printed.out == "A goat.\n" and told in printed.err


def test_recited_sentences_name_their_document(talker, monkeypatch):
    ids = (*plain(talker.text, "Lelidis keeps a goat."), talker.text.tokenizer.eos_token_id)
    monkeypatch.setattr(recite, "remembered", lambda *given, **more: [ids])
    [one] = talker.state.studied
    [found] = recite.Recital().of(talker.school, one)
    assert found.source == "one" and found.text == "Lelidis keeps a goat."
    [unnamed] = recite.Recital().of(talker.school, one._replace(name=""))
    assert unnamed.source == one.sha256[:12]


def test_what_is_recited_is_kept_until_the_weights_change(talker, monkeypatch):
    ids, asked = (*plain(talker.text, "A goat."), talker.text.tokenizer.eos_token_id), []

    def counting(*given, **more):
        asked.append(given)
        return [ids]

    monkeypatch.setattr(recite, "remembered", counting)
    other = talker.fork()
    [one] = other.state.studied
    for _ in range(2):
        other.school.recital.of(other.school, one)
    assert len(asked) == 1
    other.state = other.state._replace(studied=(one._replace(figures={}),))
    other.school.recital.of(other.school, other.state.studied[0])
    assert len(asked) == 2
