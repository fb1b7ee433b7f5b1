"""What is told of a measurement while it runs."""

import pytest

from nestling.evals.progress import Progress


def test_a_plain_line_now_and_then(capsys):
    with Progress(every=0.0) as progress:
        progress.say("niah-1")
        progress.tell(1, 4)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "niah-1" and said[1].startswith("niah-1 | 1 of 4 answered | ")
    with Progress(every=60.0) as progress:
        progress.say("niah-1")
        progress.tell(1, 4)
    assert capsys.readouterr().err == "niah-1\n"
    with Progress(quiet=True, every=0.0) as progress:
        progress.say("niah-1")
        progress.tell(1, 4)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_that_is_gone_after_an_interrupt(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(KeyboardInterrupt), Progress() as progress:
        progress.say("niah-1")
        progress.tell(1, 4)
        assert progress._bar is not None
        raise KeyboardInterrupt
    assert progress._bar is None and "niah-1\n" in capsys.readouterr().err
