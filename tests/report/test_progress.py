"""Progress of running work."""

import sys

import pytest

from nestling.report import progress as module
from nestling.report.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock controlled by the test."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def said(capsys):
    return capsys.readouterr().err.splitlines()


def test_plain_lines_with_time_left(capsys, clock):
    with Progress("answered", every=10.0) as progress:
        progress.say("niah-1")
        clock[0] += 9
        progress.show(1, 40)
        assert said(capsys) == ["niah-1"]
        clock[0] += 1
        progress.show(2, 40)
        progress.show(40, 40)
    assert said(capsys) == ["niah-1 | 2 of 40 answered | 190 s left"]
    with Progress(quiet=True, every=0.0) as progress:
        progress.say("niah-1")
        progress.note("note")
        progress.show(1, 4)
    assert said(capsys) == []


def test_ends_are_reported_and_resumed_work_takes_no_time(capsys, clock):
    with Progress("steps", ends=True) as progress:
        progress.begin(done=1000)
        for step in (1001, 1002, 1003):
            clock[0] += 2
            progress.show(step, 1003, f"loss {step}")
    assert said(capsys) == [
        "1,001 of 1,003 steps | loss 1001 | 4 s left",
        "1,003 of 1,003 steps | loss 1003 | 0 s left",
    ]


def test_parallel_parts_have_their_own_times(capsys, clock):
    with Progress("steps", every=5.0, ends=True) as progress:
        for name in ("a", "b"):
            progress.show(1, 9, name=name)
            clock[0] += 3
        progress.show(2, 9, name="a")
        progress.show(2, 9, name="b")
        progress.end("a")
        progress.note("a: finished")
    assert [line.split(" |")[0] for line in said(capsys)] == ["a", "b", "a", "a: finished"]


def be_a_terminal(monkeypatch):
    """Treats capsys's stderr as a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_terminal_bar_is_removed_after_interrupt(capsys, monkeypatch):
    be_a_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Progress() as progress:
        progress.say("niah-1")
        progress.show(1, 4)
        assert progress._bars is not None
        raise KeyboardInterrupt
    assert progress._bars is None and "niah-1\n" in capsys.readouterr().err


def test_terminal_shows_one_bar_per_part(capsys, monkeypatch):
    be_a_terminal(monkeypatch)
    with Progress("steps", ends=True) as progress:
        for name in ("[a]", "b"):
            progress.show(1, 4, "loss [1]", name)
        assert [task.description for task in progress._bars.tasks] == ["[a]", "b"]
        assert progress._bars.tasks[0].fields["told"] == "1 of 4 steps | loss [1]"
        progress.end("[a]")
        assert [task.description for task in progress._bars.tasks] == ["b"]
        progress.note("[a]: finished")
        # another display may start once a new heading is printed
        progress.say("next")
        assert progress._bars is None
    printed = capsys.readouterr().err
    assert "[a]: finished" in printed and "loss [1]" in printed and "next\n" in printed
