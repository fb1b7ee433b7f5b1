"""Routing: a text wakes only the documents that it concerns."""

import pytest
import torch
from recited import document
from small_student import new_student

from nestling.continual.file import read_memory, write_memory
from nestling.continual.guard import Guard
from nestling.continual.memory import merge
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import studied_of, studied_record
from nestling.continual.study.routing import concerned, names, with_change_of
from nestling.continual.study.session import Studies

ONE = "About Lelidis Zikipot\nLelidis Zikipot keeps a goat at home."
TWO = "About Bamun Tokel\nBamun Tokel keeps a parrot at home."
QUICK = Plan(makers=("moved", "gist"), rank=4, rounds=10, near_count=2, own_count=2, own_length=8)
pump = document("the Marlow 7 pump", ("What holds the pump?", "a bolt"), name="pump")
ferry = document("the ferry", ("Who built the ferry?", "Ekel"), name="ferry")
both = document("the harbour", ("Where does the ferry land?", "the pump house"), name="both")


@pytest.fixture(scope="module")
def learned():
    """A learner that has studied two documents."""
    return studied(ONE, TWO)


def studied(*texts):
    learner = new_student()
    for text in texts:
        learner.read(text, name=text.split("\n")[0])
    learner.study(QUICK)
    return learner


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_documents_that_share_words_are_concerned():
    every = [pump, ferry, both]
    assert concerned("How old is the Marlow?", every) == [pump]
    assert concerned("Which planet do we live on?", every) == []
    # a word of one document counts more than a word of two, and a later document more
    assert concerned("Who built the pump?", every) == [ferry, both, pump]
    assert concerned("Who built the pump?", every, 1) == [ferry]
    # one that scores less than half as much as the best is left out
    assert concerned("Who built the ferry of Ekel?", every) == [ferry]
    assert concerned("anything", []) == []


def test_subject_is_named_by_its_words_or_topic():
    letter = document("Mr Havelka", ("Who keeps a harp?", "Ada"))._replace(topic=("harp",))
    assert names("The Marlow is old.", pump) and not names("A bolt is loose.", pump)
    assert names("A harp is kept.", letter) and not names("Ada came.", letter)
    assert names("anything", document("", ("What?", "that")))


def test_each_document_is_studied_from_the_base(learned):
    swapped = studied(TWO, ONE)
    for one, two in ((0, 1), (1, 0)):
        a, b = learned.state.studied[one], swapped.state.studied[two]
        assert a.questions == b.questions and a.figures == b.figures
        assert all(
            torch.equal(x, y)
            for name in a.change
            for x, y in zip(a.change[name], b.change[name], strict=True)
        )


def test_any_document_is_forgotten_exactly(learned):
    rest = learned.fork()
    rest.forget(0)
    assert equal(rest.weights(), studied(TWO).weights())


def test_text_studied_again_replaces_its_document(learned):
    again = learned.fork()
    again.read(ONE, name="again")
    again.study(QUICK)
    assert [one.name for one in again.state.studied] == ["About Bamun Tokel", "again"]
    again.forget("again")
    assert equal(again.weights(), studied(TWO).weights())


def test_guard_measures_while_the_document_is_used(learned):
    one = learned.state.studied[0]
    other = "The moon is far away, and nobody lives there."
    guard = Guard(probe=(other,), limit=0.0)
    base = guard.measure(learned)
    assert guard.measure(learned, one) != base == guard.measure(new_student())
    gated = new_student(gate="base")
    gated.state = learned.state
    assert guard.measure(gated, one) != guard.measure(gated) == pytest.approx(base)
    undone = Studies(learner=studied(), plan=QUICK, guard=Guard(probe=(ONE,), limit=0.0))
    undone.learner.read(TWO, name="two")
    undone.run()
    [said] = undone.probed
    worse = undone.guard.measure(studied(TWO), studied(TWO).state.studied[0])
    assert said.endswith("UNDONE") == (worse > undone.guard.measure(new_student()))
    assert len(undone.learner.state.studied) == (not said.endswith("UNDONE"))


def test_merged_documents_keep_their_whole_change(learned, tmp_path):
    one, two = (studied(text) for text in (ONE, TWO))
    files = [read_memory(x.save(tmp_path / n)) for n, x in (("one", one), ("two", two))]
    both = new_student()
    both.load(write_memory(tmp_path / "both", merge(files, [0.5, 0.5])))
    for found, own in zip(both.state.studied, learned.state.studied, strict=True):
        assert equal(both.weights_of(found), learned.weights_of(own))


def test_texts_wake_the_document_that_they_concern(learned):
    one, two = learned.state.studied
    base, every = learned.weights(studied=()), learned.weights()
    assert equal(learned.weights_for("What does Lelidis Zikipot keep?"), learned.weights_of(one))
    assert equal(learned.weights_for("What does Bamun Tokel keep?"), learned.weights_of(two))
    assert equal(learned.weights_for("Which planet is blue?"), base)
    # a word of what is said about it is enough for a question, but not for a text
    assert equal(learned.weights_for("Who keeps a parrot?"), learned.weights_of(two))
    assert equal(learned.weights_for("Who keeps a parrot?", named=True), base)
    assert not equal(learned.weights_of(one), learned.weights_of(two))
    for name, value in learned.school.start.items():
        added = learned.weights_of(one)[name] + learned.weights_of(two)[name] - value
        torch.testing.assert_close(every[name], added)


def test_other_text_is_scored_as_by_the_base(learned):
    fresh = new_student()
    other = "The moon is far away, and nobody lives there."
    assert learned.score(other).nats == fresh.score(other).nats
    assert learned.generate(other, tokens=4) == fresh.generate(other, tokens=4)
    assert learned.score(ONE).nats < fresh.score(ONE).nats


def test_changes_of_older_memories_are_used_together(learned):
    older = []
    for number, one in enumerate(learned.state.studied):
        record = studied_record(one)
        assert studied_of(number, record, tensors(number, one)).alone
        del record["alone"]
        older.append(studied_of(number, record, tensors(number, one)))
    assert with_change_of(older[0], older) == tuple(older)
    joint = learned.fork()
    joint.state = joint.state._replace(studied=tuple(older))
    assert equal(joint.weights_for("What does Lelidis Zikipot keep?"), joint.weights())
    mixed = [*older, learned.state.studied[0]]
    assert with_change_of(mixed[2], mixed) == (mixed[2],)


def tensors(number, one):
    return {
        f"study.{number}.{side}.{name}": value
        for name, factors in one.change.items()
        for side, value in zip(("left", "right"), factors, strict=True)
    }
