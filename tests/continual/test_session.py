"""Reading files: saving, resuming, and the guard."""

import os

import pytest
from apart import run_apart
from continual_killed import main

from nestling.continual.file import read_memory
from nestling.continual.guard import Guard
from nestling.continual.opening import open_learner, read_documents
from nestling.continual.session import Session
from nestling.core.error import UserError

TEXTS = [("one", "a text about one thing. " * 4), ("two", "and one about another! " * 4)]


@pytest.fixture
def learner(folder):
    return open_learner(folder, levels="8:1e-2,32:1e-2")


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_loses_at_most_the_open_period(folder, tmp_path, kills):
    assert run_apart(main, folder, tmp_path, kills) > kills / 4  # kills happened within texts


def test_file_is_written_when_periods_close(learner, tmp_path):
    memory, seen = tmp_path / "memory", []
    session = Session(learner=learner, memory=memory, save_every=32)

    def show(name, done, total, reading):
        if memory.exists():
            seen.append(read_memory(memory).about["stream"]["tokens"])

    session.show = show
    session.read(TEXTS)
    assert set(range(32, 192, 32)) <= set(seen)
    assert read_memory(memory).about["stream"]["tokens"] == 184
    with pytest.raises(UserError, match="multiple"):
        Session(learner=learner, save_every=12)


def test_leftover_drafts_are_removed(learner, tmp_path):
    names = (".m.memory.old", ".m.memory.new", ".other.memory.old")
    for name in names:
        (tmp_path / name).write_bytes(b"draft")
    for name in (names[0], names[2]):
        os.utime(tmp_path / name, (0, 0))
    Session(learner=learner, memory=tmp_path / "m.memory")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names[1:])


def test_known_texts_are_skipped_unless_forced(learner):
    first = Session(learner=learner)
    first.read(TEXTS)
    state = learner.state
    second = Session(learner=learner)
    second.read(TEXTS)
    assert second.readings == [] and learner.state is state
    assert "--again" in second.summary()
    second.read(TEXTS[:1], again=True)
    assert [name for name, _ in second.readings] == ["one"]
    assert len(learner.state.documents) == 3


def test_document_over_the_guard_limit_is_undone(folder, monkeypatch):
    """An undone document leaves no trace. The loss of an untrained model moves at random, so
    measured losses are replaced by given ones.
    """
    probe = ("0123456789" * 10,)
    measured = Session(learner=open_learner(folder, levels="8:3e-1"), guard=Guard(probe=probe))
    measured.read(TEXTS)
    losses = [measured.before, *(kept.probe for kept in measured.kept)]
    assert not any(kept.undone for kept in measured.kept)
    rising, measure = dict(zip(losses, (1.0, 1.1, 1.3), strict=True)), Guard.measure
    assert len(rising) == 3, losses
    monkeypatch.setattr(Guard, "measure", lambda self, learner: rising[measure(self, learner)])
    for limit, expected in ((0.2, [False, True]), (0.4, [False, False])):
        learner = open_learner(folder, levels="8:3e-1")
        session = Session(learner=learner, guard=Guard(probe=probe, limit=limit))
        session.read(TEXTS[:1])
        state = learner.state
        session.read(TEXTS[1:])
        assert [kept.undone for kept in session.kept] == expected
        assert (learner.state is state) == expected[1]
        assert ("UNDONE" in session.summary()) == expected[1]
        record = session.result("x").metrics["probe"]
        assert record["before"] == 1.0 and record["after"][0]["probe"] == 1.1


def test_guard_needs_a_probe_and_a_valid_limit(learner):
    with pytest.raises(UserError, match="probe"):
        Guard(probe=())
    with pytest.raises(UserError, match="fraction"):
        Guard(probe=("text",), limit=-1.0)
    with pytest.raises(UserError, match="too short"):
        Session(learner=learner, guard=Guard(probe=("",)))


def test_documents_are_files_or_texts(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("what is in the file", encoding="utf-8")
    assert read_documents([file, "two words"]) == [
        ("a.txt", "what is in the file"),
        ("text", "two words"),
    ]
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe\x00")
    for wrong, message in ((tmp_path / "b.bin", "UTF-8"), ("nothing.txt", "there is no file")):
        with pytest.raises(UserError, match=message):
            read_documents([wrong])
