"""An entry of a form is found by its heading."""

import pytest

from nestling.core.error import UserError
from nestling.tasks import UNSEEN
from nestling.tasks.forms import HEADINGS, Forms
from nestling.tasks.words import made_prose


def test_line_reader_finds_every_value():
    task = Forms(Forms.Config(length=1500, entries=12), material=made_prose())
    for question in task.examples(UNSEEN, 30):
        *lines, empty, asked = question.prompt.split("\n")
        told = dict(line.rstrip(".").split(": ") for line in lines if ": " in line)
        assert len(told) == 12 and set(told) <= set(HEADINGS) and empty == ""
        assert question.answers == (told[asked.rstrip(":")],)
        assert question.as_lesson.endswith(f"{asked} {question.answers[0]}")
        assert len(question.prompt) <= 1500
        assert len(lines) > 20


def test_answer_matching():
    task = Forms.tiny()
    (question,) = task.examples(0, 1)
    (right,) = question.answers
    assert task.scores([f" {right.upper()}.", f"other\n{right}", ""], [question] * 3) == [1, 0, 0]


def test_invalid_sizes_are_refused():
    for values in ({"entries": 0}, {"entries": 19}, {"length": 0}):
        with pytest.raises(UserError):
            Forms.Config(**values)
    with pytest.raises(UserError, match="too short"):
        Forms(Forms.Config(length=50), material=made_prose()).examples(0, 1)
