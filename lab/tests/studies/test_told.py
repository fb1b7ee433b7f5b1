"""The study of short texts: questions are answerable from the text, and the page counts answers."""

import pytest

from nestling.continual.study import near
from nestling.core.result import Result
from nestling_lab.studies import load_study
from nestling_lab.studies.continual import many_asked
from nestling_lab.studies.continual.told_checked import tallied
from nestling_lab.studies.continual.told_texts import GENERAL, told_texts


@pytest.mark.parametrize("one", told_texts().values(), ids=lambda one: one.name)
def test_every_text_is_short_and_holds_the_answer(one):
    assert 120 <= len(one.text.split()) <= 200
    assert len(one.questions) == 6 and len(one.unanswered) in (0, 3)
    for ask, accept in one.questions:
        assert any(value.lower() in one.text.lower() for value in accept), ask
        assert not any(value.lower() in ask.lower() for value in accept if len(value) > 1), ask


def test_no_general_question_of_a_study_is_a_lesson():
    lessons = {question.lower() for question in near.GENERAL}
    asked = {question.lower() for question, _ in (*GENERAL, *many_asked.GENERAL)}
    assert not lessons & asked


def test_page_opens_with_findings():
    study = load_study("told")
    others = ("told-again", "told-checked", "told-fresh", "told-new", "told-plain")
    all_studies = (study, *(load_study(name) for name in others))
    cells = study.cells({})
    names = {cell.name for each in all_studies for cell in each.cells({})}
    assert len(cells) == 10 and names == set(told_texts()) and len(names) == 60
    done = {}
    for number, cell in enumerate(cells[:2]):
        one = told_texts()[cell.name]
        replies = [
            accept[0] if n <= 4 + number else "" for n, (_, accept) in enumerate(one.questions)
        ]
        said = {"studied": replies, "nothing": [""] * 6, "chat": replies, "shots": replies}
        metrics = {
            "words": 150,
            "asked": [list(pair) for pair in one.questions],
            "said": said,
            "right": {way: sum(one.right(each)) for way, each in said.items()},
            "of": 6,
            "known": 0.01 + 0.02 * number,
            "cpu_seconds": 200.0,
            "bytes": 3_000_000,
            "study": {"right_after": 9.0, "asked": 12.0},
        }
        done[cell.name] = Result(name=f"told/{cell.name}", config=cell.config, metrics=metrics)
    found = study.find(done)
    assert found.metrics == {
        "texts": 2,
        "asked": 12,
        "right": {"studied": 11, "nothing": 0, "chat": 11, "shots": 11},
    }
    text = found.sections[1].text
    assert found.answer.startswith("Of 12 questions 11 are answered right")
    assert [row[1] for row in found.shown.tables[0].rows] == [f"{n} of 12" for n in (11, 0, 11, 11)]
    assert "for 2 of 2 texts" in text and "for 1 of 2" in text


def test_checked_page_reports_the_gain_of_the_check():
    study = load_study("told-checked")
    done = {}
    for cell in study.cells({})[:2]:
        one = told_texts()[cell.name]
        right = [accept[0] for _, accept in one.questions]
        said = {way: right for way in ("studied", "nothing", "chat", "shots")}
        said["unchecked"] = [*right[:4], "", ""]
        replies = [*[""] * len(one.unanswered), *(accept[0] for _, accept in GENERAL)]
        more = {"studied": replies, "unchecked": right[:1] * len(replies), "nothing": replies}
        metrics = {
            "words": 150,
            **tallied(one, said, more),
            "known": 0.01,
            "cpu_seconds": 200.0,
            "bytes": 3_000_000,
            "study": {"right_after": 9.0, "asked": 12.0},
        }
        done[cell.name] = Result(name=f"told-checked/{cell.name}", config={}, metrics=metrics)
    found = study.find(done)
    assert found.metrics["right"]["studied"] == 12 and found.metrics["right"]["unchecked"] == 8
    assert found.metrics["quiet"] == {"studied": 6, "unchecked": 0, "nothing": 6}
    assert found.metrics["general"]["studied"] == 12
    assert "Of 12 questions 12 are answered right" in found.answer
    rows = found.shown.tables[0].rows
    assert [row[1] for row in rows[:2]] == ["12 of 12", "8 of 12"]
    assert "right for 2 of 2 texts" in found.sections[1].text
