"""The study of corrections: what is asked follows from the texts, and the page counts replies."""

import pytest

from nestling.core.result import Result
from nestling.tasks.manuals import first_mention
from nestling_lab.studies import load_study
from nestling_lab.studies.continual.corrections import COUNTS, Corrections, Notices
from nestling_lab.studies.continual.manual_texts import manual_texts

TEXTS = manual_texts(Corrections.source)


@pytest.mark.parametrize(
    "one",
    [*TEXTS.values(), *manual_texts(Notices.source).values()],
    ids=lambda one: one.name,
)
def test_each_value_is_in_its_text_alone(one):
    def holds(text, values):
        return any(first_mention(text, [value]) is not None for value in values)

    assert 90 <= len(one.text.split()) <= 160 and 12 <= len(one.correction.split()) <= 65
    counts = {kind: len(own) for kind, own in one.scores([""] * len(one.asked)).items()}
    assert counts == {
        "questions": 4, "unanswerable": 2, "changed": 2, "unchanged": 0, "added": 1,
    }  # fmt: skip
    for each in one.questions:
        assert holds(one.text, each.accept) and not holds(one.correction, each.accept), each
    for each in one.changed:
        assert holds(one.correction, each.accept) and not holds(one.text, each.accept), each
        assert holds(one.text, each.others), each
    for each in one.added:
        assert holds(one.correction, each.accept) and not holds(one.text, each.accept), each
    for each in one.unanswerable:
        assert each.others and all(holds(one.text, [value]) for value in each.others), each
    for each in one.asked:
        assert not holds(each.ask, each.accept), each


def run_of(one, before, after):
    """Metrics of a cell in which study gives these replies and the other readers nothing."""
    stages = []
    for number, own in enumerate((before, after)):
        ways = [way for way in Corrections.ways if way != "nothing" or not number]
        said = {way: own if way == "studied" else [""] * len(own) for way in ways}
        study = {"recited": 3.0, "sentences": 4.0}
        stages.append({"said": said, "study": study, "cpu_seconds": 100.0})
    return {"words": 120, "stages": stages, "known": [0.01, 0.02]}


def test_page_counts_by_what_is_asked_for():
    study = load_study("corrections")
    cells = study.cells({})
    assert len(cells) == 20 and "Nothing" in study.find({}).answer
    done = {}
    for cell in cells[:2]:
        one = TEXTS[cell.name]
        old = [(one.accept or one.others or ("",))[0] for one in one.asked]
        new = [each.accept[0] if each.accept else "Unknown." for each in one.asked]
        new[0] = "Something else."
        metrics = run_of(one, old, new)
        done[cell.name] = Result(name=f"corrections/{cell.name}", config={}, metrics=metrics)
    found = study.find(done)
    studied = [[8, 8], [0, 4], [6, 8], [4, 4], [4, 4], [2, 2]]
    assert found.metrics["studied"] == dict(zip(COUNTS, studied, strict=True))
    assert found.metrics["nothing"] == {
        title: [4 if "not said" in title else 0, of[1]]
        for title, of in found.metrics["studied"].items()
    }
    assert found.answer.startswith("Once both texts are gone 4 of 4 corrected facts")
    assert "2 of 2 that the notice adds" in found.answer
    assert "6 of 8 questions are answered rightly, 8 before" in found.answer
    [costs], [replies] = (section.tables for section in found.sections[1:])
    assert costs.rows[0][2:4] == ("4 of 4, 6 of 7", "3 of 4, 3 of 4")
    assert len(replies.rows) == 2 * 9 and replies.rows[0][3:] == ("- Something else.",)
    assert {row[2][:1] for row in replies.rows} >= {"+", "-"}

    said = [*new[:-3], "Something else.", *new[-2:]]  # one of the two changes
    done[f"{cells[1].name}-about"] = Result(name="corrections", config={}, metrics={"said": said})
    found = study.find(done)
    assert found.metrics["about"]["corrected facts"] == [1, 2]
    assert found.metrics["about"]["added facts"] == [1, 1]
    assert "(`--about`) 1 of 2, 1 of 1 and 3 of 4." in found.answer
    assert found.sections[-1].tables[0].rows[9][4] == "- Something else."


def test_subject_is_given_with_every_notice():
    study = load_study("notices")
    cells = study.cells({})
    assert len(cells) == len(manual_texts(Notices.source)) == 6
    assert all(cell.config["about"] == "text.txt" for cell in cells)
    name, one = cells[0].name, manual_texts(Notices.source)[cells[0].name]
    new = [each.accept[0] if each.accept else "Unknown." for each in one.asked]
    found = study.find({name: Result(name=name, config={}, metrics=run_of(one, new, new))})
    assert found.metrics["studied"]["corrected facts"] == [2, 2] and "`--about`" not in found.answer
