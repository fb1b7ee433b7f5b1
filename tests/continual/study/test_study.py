"""A small model reads, studies, and answers without the text."""

import dataclasses

import pytest
import torch
from learner_states import equal
from small_student import PLAN, new_student

from nestling.continual.compare import diff
from nestling.continual.file import read_memory, write_memory
from nestling.continual.memory import fork, merge
from nestling.continual.study.examine import holds
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import Open, subject_given, subject_named
from nestling.continual.study.replay import replayed
from nestling.continual.study.routing import concerned, related
from nestling.core.error import UserError

TEXT = """About Lelidis Zikipot
Lelidis Zikipot keeps a goat at home. Lelidis Zikipot was born in Padua."""
SECOND = (
    "About Bamun Tokel\nBamun Tokel keeps a parrot at home. Bamun Tokel earns a living as a cook."
)
QUICK = dataclasses.replace(PLAN, makers=("moved", "about", "gist"), rank=4, rounds=10)


@pytest.fixture(scope="module")
def learned():
    """A learner that has studied one text, and its record."""
    learner = new_student()
    learner.read(TEXT, name="one")
    [one] = learner.study(PLAN)
    return learner, one


def changes(learner):
    return [x for one in learner.state.studied for f in one.change.values() for x in f]


def test_studied_facts_are_answered_without_the_text(learned):
    learner, one = learned
    asked = one.questions
    right = [holds(learner.ask(q.question, tokens=12), q.answer) for q in asked]
    fresh = new_student()
    before = [holds(fresh.ask(q.question, tokens=12), q.answer) for q in asked]
    assert sum(right) >= 0.6 * len(right) > 0
    assert sum(before) <= 0.2 * len(before)
    assert one.figures["right_after"] > one.figures["right_before"]


def test_only_questions_are_kept(learned):
    learner, one = learned
    assert not learner.state.waiting and learner.state.open is None
    assert all(q.reply == "" for q in one.questions)
    assert not {"goat", "padua"} & set(one.missing)


def test_base_is_never_modified(learned):
    learner, _ = learned
    model = learner.reader.model
    fresh = new_student().reader.model
    assert all(map(torch.equal, model.state_dict().values(), fresh.state_dict().values()))


def test_undo_is_bitwise(learned):
    learner = learned[0].fork()
    before = learner.weights()
    learner.read(SECOND, name="two")
    learner.study(QUICK)
    assert any(not torch.equal(before[n], now) for n, now in learner.weights().items())
    assert learner.undo().name == "two"
    after = learner.weights()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    learner.undo()
    assert learner.weights() == {} and learner.state.documents == ()
    with pytest.raises(UserError, match="nothing to undo"):
        learner.undo()


def test_forget_by_document_name(learned):
    learner = learned[0].fork()
    learner.read(SECOND, name="two")
    learner.study(QUICK)
    learner.forget("one")
    assert [one.name for one in learner.state.studied] == ["two"]
    with pytest.raises(UserError, match="known: two"):
        learner.forget("one")


def test_studied_memories_are_compared_document_by_document(learned, tmp_path):
    one = learned[0].fork()
    two, again = one.fork(), new_student()
    two.read(SECOND, name="two")
    two.study(QUICK)
    again.read(TEXT, name="one")
    again.study(dataclasses.replace(QUICK, seed=1))
    files = [
        read_memory(learner.save(tmp_path / name))
        for learner, name in ((one, "one"), (two, "two"), (again, "again"))
    ]

    def added(learner, number):
        change = learner.state.studied[number].change
        return torch.cat([f.product().double().flatten() for f in change.values()])

    same, new = diff(*files[:2])
    assert same.level == "study of one" and new.level == "study of two"
    assert same.first == same.second > 0 and same.between == pytest.approx(0, abs=1e-3 * same.first)
    assert new.first == 0 and new.second == pytest.approx(added(two, 1).norm().item(), rel=1e-3)
    apart = added(one, 0) - added(again, 0)
    [row] = diff(files[0], files[2])
    assert row.between == pytest.approx(apart.norm().item(), rel=1e-3)
    assert 0 < row.cosine < 1
    with pytest.raises(UserError, match="no smaller form"):
        fork(tmp_path / "one", tmp_path / "small", "16bit")


def test_merge_keeps_pending_texts(learned, tmp_path):
    one, two = learned[0].fork(), new_student()
    two.read(SECOND, name="two")
    two.read(TEXT, name="one")  # which the first has studied
    merged = merge([read_memory(one.save(tmp_path / "a")), read_memory(two.save(tmp_path / "b"))])
    again = new_student()
    again.load(write_memory(tmp_path / "c", merged))
    assert [waiting.name for waiting in again.state.waiting] == ["two"]
    assert len(again.state.studied) == 1


def test_notice_has_the_subject_of_the_document_it_is_about(learned, tmp_path):
    learner, first = learned[0].fork(), learned[1]
    notice = "Correction of 4 May\n\nThe goat was sold in Rome. It is now kept by Bamun Tokel."
    alone = learner.fork()
    for one, about in ((learner, "one"), (alone, "")):
        one.read(notice, name="notice", about=about)
        one.save(file := tmp_path / "m", overwrite=True)
        one.load(file)  # what it is about waits in the file
        one.study(QUICK)
    asked = "Who is Lelidis Zikipot?"
    told, untold = learner.state.studied[-1], alone.state.studied[-1]
    assert told.about == first.about == "Lelidis Zikipot" != untold.about
    woken = [[x.name for x in concerned(asked, one.state.studied)] for one in (learner, alone)]
    assert sorted(woken[0]) == ["notice", "one"] and woken[1] == ["one"]
    assert related(told, first) and not related(untold, first)
    assert any("Lelidis" in q.question for q in told.questions)
    for about, message in (
        ("two.txt", "no document 'two.txt' was studied.*known: one, notice"),
        ("?", "a phrase"),
    ):
        with pytest.raises(UserError, match=message):
            learner.read(SECOND, about=about)
    assert not learner.state.waiting


@pytest.mark.parametrize(
    ("about", "subject"),
    [
        ("rules.txt", "a" * 64),  # an exact name before one without its folder
        ("new/rules.txt", "b" * 64),
        ("other/rules.txt", "b" * 64),
        ("abcdef", "abcdef" + "0" * 58),
        ("- ", None),
        ("-", "abcdef" + "0" * 58),
        ("bbbbb", "bbbbb"),  # too short for a checksum
        ("missing.md", None),
        (" The  Osk lift. ", "the Osk lift"),
        ("Node.js", "Node.js"),
        ("TCP/IP", "TCP/IP"),
    ],
)
def test_subject_names_a_document_or_is_a_phrase(about, subject):
    known = [("rules.txt", "a" * 64), ("new/rules.txt", "b" * 64), ("-", "abcdef" + "0" * 58)]
    if subject is None:
        with pytest.raises(UserError, match="phrase"):
            subject_named(about, known)
    else:
        assert subject_named(about, known) == subject


def test_subject_of_a_waiting_notice_can_be_given_later(learned, tmp_path):
    learner = learned[0].fork()
    learner.read(SECOND, name="two")
    learner.read(TEXT[20:], name="notice")
    for again, about in ((False, "two"), (True, "")):
        learner.read(TEXT[20:], name="notice", again=again, about=about)
    file = learner.save(tmp_path / "m")
    assert [len(one) for one in read_memory(file).about["waiting"]] == [3, 4]
    merged = merge([read_memory(file), read_memory(learned[0].fork().save(tmp_path / "a"))])
    again = new_student()
    again.load(write_memory(tmp_path / "c", merged))
    two, notice = again.state.waiting
    assert (two.about, notice.about) == ("", two.sha256)
    again.study(QUICK)
    assert [one.about for one in again.state.studied[1:]] == ["Bamun Tokel"] * 2
    # of a document that is gone nothing is known, and without study nothing is given
    again.read("It is closed.", about="two")
    again.forget("two")
    assert subject_given(again.state.waiting[-1].about, again.state.studied) == ""
    again.studies = False
    with pytest.raises(UserError, match="about has no effect"):
        again.read("It is open.", about="one")


def test_equal_texts_give_equal_memory_files(tmp_path):
    for name in ("a", "b"):
        learner = new_student()
        learner.read(TEXT, name="one")
        learner.study(QUICK)
        learner.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Broken(Exception):
    pass


@pytest.fixture(scope="module")
def unbroken():
    """A learner that has studied two texts without interruption."""
    learner = new_student()
    learner.read(TEXT, name="one")
    learner.read(SECOND, name="two")
    learner.study(QUICK)
    return learner


@pytest.mark.parametrize("times", [(0, 1), pytest.param((7,), marks=pytest.mark.slow)])
def test_interrupted_study_resumes_bitwise(unbroken, tmp_path, times):
    again = new_student()
    again.read(TEXT, name="one")
    again.read(SECOND, name="two")
    for when in times:

        def stop(learner, progress, when=when):
            if progress.done == when and (when == 0 or progress.loss is not None):
                raise Broken

        with pytest.raises(Broken):
            again.study(QUICK, stop)
        again.save(tmp_path / "part")
        again = new_student()
        again.load(tmp_path / "part")
    again.study(QUICK)
    for one, two in zip(again.state.studied, unbroken.state.studied, strict=True):
        assert (one.name, one.questions, one.figures) == (two.name, two.questions, two.figures)
    assert len(changes(again)) == len(changes(unbroken))
    assert all(map(torch.equal, changes(again), changes(unbroken)))


def test_saved_study_round_trip(learned, tmp_path):
    learner, _ = learned
    learner.save(tmp_path / "memory")
    again = new_student()
    again.load(tmp_path / "memory")
    assert equal(learner, again)
    assert all(map(torch.equal, changes(learner), changes(again)))
    assert again.state.studied[0].figures == learner.state.studied[0].figures
    assert again.ask("Lelidis Zikipot keeps what?") == learner.ask("Lelidis Zikipot keeps what?")


def test_long_text_is_studied_by_passages():
    plan = dataclasses.replace(QUICK, passage=40, rounds=2)
    learner = new_student()
    seen_in = ["once in Split", "2 times in Turku", "by a baker in Cork"]
    text = TEXT + " " + " ".join(f"Lelidis Zikipot was seen {where}." for where in seen_in)
    learner.read(text, name="long")
    seen = []
    [one] = learner.study(plan, lambda _, progress: seen.append(progress))
    assert max(progress.steps for progress in seen) > plan.all_steps([2])[0]
    assert {q.answer for q in one.questions} >= {"a goat", "Padua", "2 times"}
    ranks = {len(factors.right) for factors in one.change.values()}
    assert max(ranks) > plan.rank


def test_questions_of_earlier_passages_are_replayed(learned):
    _, one = learned
    every = replayed(Open({}, earlier=one.questions), "seed", 100)
    assert {question for question, _ in every} == {q.question for q in one.questions}
    assert replayed(Open({}, earlier=one.questions), "seed", 2) == every[:2]
    assert replayed(Open({}), "seed") == []


@pytest.mark.parametrize(
    "text", ["x", "1 2 3 4", "?!", "Niemand darf den Turm besteigen.", "no. no. no. no."]
)
def test_odd_texts_can_be_studied(text):
    learner = new_student()
    learner.read(text, name="odd")
    learner.study(dataclasses.replace(QUICK, budget=1))
    assert learner.state.waiting == ()
    learner.ask("What?", tokens=3)


def test_budget_limits_the_writes():
    learner = new_student()
    learner.read(TEXT, name="one")
    seen = []
    learner.study(dataclasses.replace(PLAN, budget=3), lambda _, p: seen.append(p.done))
    assert max(seen) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"makers": ("moves",)}, "moved"),
        ({"makers": ()}, "at least one maker"),
        ({"rank": 0}, "rank"),
        ({"held": 1.0}, "held"),
        ({"budget": 0}, "budget"),
    ],
)
def test_bad_plans_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Plan(**options)
