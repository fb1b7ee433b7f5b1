"""Reciting: a memory's own questions bring back the studied sentences."""

from types import SimpleNamespace

import pytest
import torch
from recited import new_talker, own, scripted

from nestling.continual.study import recite
from nestling.continual.study.form import plain
from nestling.continual.study.recite import cues, recited, remembered


@pytest.fixture(scope="module")
def talker():
    return new_talker()


def test_cues_are_the_likeliest_questions_about_each_sentence(monkeypatch):
    monkeypatch.setattr(recite, "CUES", 2)
    asked = [
        own("a", 0, sure=-1.0), own("b", 0, sure=-3.0), own("c", 0, sure=-2.0),
        own("d", 1, sure=-9.0), own("no answer", 1, answer=""), own("held out", 1, held=True),
        own("e", 0, sure=-5.0),  # of the next passage, whose sentence numbers restart
    ]  # fmt: skip
    assert cues(asked) == [["a", "c"], ["d"], ["e"]]
    assert cues([]) == []
    # if no question has a short answer
    assert cues([own("a", 0, answer=""), own("b", 0, answer="", held=True)]) == [["a"]]


def test_learned_sentences_are_recited_once_in_order(talker):
    lines = {"first?": "The goat is kept at home.", "second?": "It was born in Padua, a town."}
    form, said, speaker = scripted(talker, {**lines, "again?": lines["first?"]})
    found = remembered(
        speaker, form, [[one] for one in (*lines, "again?")], {"w": torch.ones(1)}, {}
    )
    assert found == [said["first?"], said["second?"]]


def test_invented_sentences_are_dropped_early(talker):
    """An invented reply is likely only after its cue, not after other questions."""
    lines = {"made up?": "The goat is kept at home, and it was born in Padua by the river."}
    form, said, speaker = scripted(talker, lines)
    assert len(said["made up?"]) > recite.HEARD
    learned = {"w": torch.ones(1)}
    assert remembered(speaker, form, [list(lines)], learned, {}) == list(said.values())
    assert speaker.asked == [(1, recite.HEARD), (1, recite.LONGEST - recite.HEARD)]
    speaker.learned, speaker.asked = set(), []
    assert remembered(speaker, form, [list(lines)], learned, {}) == []
    assert sum(count for count, _ in speaker.asked) == 1


def test_sentences_that_begin_alike_are_all_recited(talker):
    """The items of a list begin with its heading."""
    head = "Opening hours of the mill and of the shop beside it, in summer: "
    lines = {"mill?": f"{head}the mill at nine.", "shop?": f"{head}the shop at ten."}
    form, said, speaker = scripted(talker, lines)
    begin = {ids[: recite.HEARD] for ids in said.values()}
    assert len(begin) == 1
    given = ([["mill?"], ["shop?"]], {"w": torch.ones(1)}, {})
    assert remembered(speaker, form, *given) == list(said.values())


def test_another_cue_is_followed_where_the_first_leads_astray(talker):
    head = "The Kelmor line, from the station to the harbour and back, "
    lines = {"wrong?": f"{head}never runs.", "right?": f"{head}runs at 5:50."}
    form, said, speaker = scripted(talker, lines)
    speaker.learned.discard(said["wrong?"])
    given = ([["wrong?", "right?"]], {"w": torch.ones(1)}, {})
    assert remembered(speaker, form, *given) == [said["right?"]]
    assert [count for count, _ in speaker.asked] == [2, 1, 1]


def test_replies_of_the_base_are_not_recited(talker):
    form, _, speaker = scripted(talker, {"first?": "The goat is kept at home."})
    learned = {"w": torch.ones(1)}
    assert remembered(speaker, form, [["first?"]], learned, {})
    assert remembered(speaker, form, [["first?"]], learned, learned) == []


def test_unfinished_sentence_is_not_recited(talker, monkeypatch):
    form, said, speaker = scripted(talker, {"first?": "The goat is kept at home."})
    learned = {"w": torch.ones(1)}
    monkeypatch.setattr(recite, "HEARD", 2)
    monkeypatch.setattr(recite, "LONGEST", len(said["first?"]))
    assert len(remembered(speaker, form, [["first?"]], learned, {})) == 1
    monkeypatch.setattr(recite, "LONGEST", len(said["first?"]) - 2)
    assert remembered(speaker, form, [["first?"]], learned, {}) == []


def test_a_long_sentence_may_be_less_likely(talker, monkeypatch):
    form, said, speaker = scripted(talker, {"first?": "The goat is kept at home."})
    learned, least = {"w": torch.ones(1)}, 0.5  # no reply is as likely as that
    assert remembered(speaker, form, [["first?"]], learned, {}, least=least) == []
    monkeypatch.setattr(recite, "USUAL", 2)
    assert remembered(speaker, form, [["first?"]], learned, {}, least=least) == [said["first?"]]
    monkeypatch.setattr(recite, "FURTHER", 0.0)
    assert remembered(speaker, form, [["first?"]], learned, {}, least=least) == []


def test_sentences_recited_word_for_word_are_counted(talker):
    lines = {"first?": "The goat is kept at home.", "second?": "It was born in Padua, a town."}
    form, _, speaker = scripted(talker, lines)
    school = SimpleNamespace(speaker=speaker, talk=form, learner=talker)
    given = ([own(ask, n) for n, ask in enumerate(lines)], list(lines.values()))
    learned = {"w": torch.ones(1)}
    assert recited(school, *given, learned) == 2
    assert recited(school, given[0], ["The goat is kept at home.", "A third."], learned) == 1
    assert recited(school, *given, {}) == 0


def test_study_in_chat_form_counts_what_it_recites(talker):
    [one] = talker.state.studied
    assert one.figures["sentences"] == 1 and 0 <= one.figures["recited"] <= 1


def test_recited_sentences_name_their_document(talker, monkeypatch):
    ids = (*plain(talker.text, "Lelidis keeps a goat."), talker.text.tokenizer.eos_token_id)
    monkeypatch.setattr(recite, "remembered", lambda *given, **more: [ids])
    [one] = talker.state.studied
    [found] = recite.Recital().of(talker.school, one)
    assert found.source == "one" and found.text == "Lelidis keeps a goat."
    [unnamed] = recite.Recital().of(talker.school, one._replace(name=""))
    assert unnamed.source == one.sha256[:12]


def test_recited_sentences_are_cached_until_weights_change(talker, monkeypatch):
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
