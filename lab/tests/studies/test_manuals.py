"""The study of longer texts: questions follow from the texts, and the page counts replies."""

import pytest
from small_facts import tiny_reader

from nestling.continual import ContinualLearner
from nestling.core.result import Result
from nestling.models.pretrained import stack_model, studied_level
from nestling.tasks.manuals import first_mention
from nestling_lab.studies import load_study
from nestling_lab.studies.continual import asked_anew
from nestling_lab.studies.continual.asked_anew import FROZEN, nearest
from nestling_lab.studies.continual.manual_report import COUNTS, WAYS
from nestling_lab.studies.continual.manual_texts import manual_texts
from nestling_lab.studies.continual.manuals import Manuals

# accepted values that are other spellings of a value in the text
SPELT = {
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "7": "seven",
    "10": "ten",
    "12": "twelve",
    "13": "thirteen",
    "5 weeks": "five weeks",
    "8:30": "half past eight",
    "9:15": "quarter past nine",
    "15 minutes": "quarter of an hour",
    "two weeks": "fortnight",
    "whiskey": "whisky",
    "moving": "moved",
}
MANUALS = manual_texts()
every_manual = pytest.mark.parametrize("one", MANUALS.values(), ids=lambda one: one.name)


def tiny_learner():
    model, tokenizer = tiny_reader()
    return ContinualLearner(stack_model(model, tokenizer, [studied_level(4, (1, 2))], "low-rank"))


def holds(text, value):
    return first_mention(text, [value, SPELT.get(value, value)]) is not None


def test_half_are_held_out_and_half_of_each_corrected():
    assert len(MANUALS) == len({one.kind for one in MANUALS.values()}) == 8
    for tuning in (False, True):
        half = [one for one in MANUALS.values() if one.tuning == tuning]
        assert len(half) == 4 and sum(bool(one.correction) for one in half) == 2


@every_manual
def test_text_length_and_question_count(one):
    assert 150 <= len(one.text.split()) <= 330
    assert len(one.questions) >= 8 and len(one.unanswerable) == 2
    counts = (3, 2) if one.correction else (0, 0)
    assert (len(one.changed), len(one.unchanged)) == counts
    assert not one.correction or 40 <= len(one.correction.split()) <= 80
    asked = [each.ask for each in one.asked]
    assert len(set(asked)) == len(asked)


@every_manual
def test_text_holds_every_value_and_questions_none(one):
    for each in one.questions + one.unchanged:
        assert all(holds(one.text, value) for value in each.accept), each
        assert all(holds(one.text, value) for value in each.others), each
    for each in one.unanswerable:
        assert each.others and all(holds(one.text, value) for value in each.others), each
    for each in one.changed:
        assert all(holds(one.correction, value) for value in each.accept), each
        assert all(holds(one.text, value) for value in each.others), each
        assert not set(each.accept) & set(each.others), each
    for each in one.asked:
        given = [value for value in each.accept + each.others if holds(each.ask, value)]
        assert not given or not each.accept and set(given) <= {"214"}, each


@every_manual
def test_answer_matching(one):
    right = [each.accept[0] if each.accept else "That is not said." for each in one.asked]
    wrong = [each.others[0] if each.others else "No." for each in one.asked]
    assert all(all(passed) for passed in one.scores(right).values())
    assert not any(any(passed) for passed in one.scores(wrong).values())
    assert one.known_before(wrong) == [True] * len(one.changed)
    assert not any(one.known_before(right))
    for each in one.unanswerable:
        assert not set(each.others) & set(each.accept)


@every_manual
def test_correction_changes_no_other_question(one):
    """An old value that is also right elsewhere is another fact of the text."""
    for each in one.questions + one.unchanged:
        assert each.ask not in {changed.ask for changed in one.changed}
        for changed in one.changed:
            assert not set(each.accept) & set(changed.others), each


def test_retrieval_finds_matching_sentences():
    one = MANUALS["ginger_beer"]
    found = nearest(tiny_learner(), one.text, one.questions[5].ask)
    assert "nylon stocking" in found
    assert len(found.split()) < len(one.text.split()) / 2


def test_every_reader_answers_every_question(monkeypatch):
    monkeypatch.setattr(asked_anew, "TOKENS", 4)
    questions = ["Who made it?", "What does it cost?", "When?"]
    text = "The lamp was made by Ada. It costs nine pounds. It was lit in May. Nobody saw it."
    base = tiny_learner()
    for name, reader in FROZEN.items():
        said = reader(base, text, questions)
        assert len(said) == 3 and all(isinstance(reply, str) for reply in said), name
        again = reader(base, text, questions[::-1])
        assert said == again[::-1], name


def run_of(one, replies, corrected):
    """Metrics of a cell in which study gives ``replies`` and the other readers nothing."""
    silence = [""] * len(one.asked)
    stages = []
    for own in [replies, corrected] if one.correction else [replies]:
        said = {way: own if way == "studied" else silence for way in WAYS}
        study = {"known_before": 2.0, "known_after": 2.02}
        took = {"cpu_seconds": 300.0, "wall_seconds": 200.0, "bytes": 4_000_000, "tokens": 330}
        stages.append({"said": said, "study": study, **took})
    known = [0.01, 0.03][: len(stages)]
    return {"words": 250, "stages": stages, "known": known, "peak_bytes": 2_000_000_000}


def test_page_opens_with_findings_per_half():
    study = load_study("manuals")
    cells = study.cells({})
    assert len(cells) == 8 and study.find({}).answer.startswith("None")
    done = {}
    for cell in cells:
        one = MANUALS[cell.name]
        new = [asked.accept[0] if asked.accept else "Unknown." for asked in one.asked]
        old = [
            asked.others[0] if asked in one.changed else reply
            for asked, reply in zip(one.asked, new, strict=True)
        ]
        if one.tuning:  # gives values of the text in the wrong places
            new = old = [asked.others[0] if asked.others else "No." for asked in one.asked]
        name = f"manuals/{cell.name}"
        done[cell.name] = Result(name=name, config=cell.config, metrics=run_of(one, old, new))
    found = study.find(done)
    assert found.answer.startswith("Of 32 questions 32 about 4 texts that were set aside")
    assert found.answer.endswith("none if nothing was read.")
    rows = {row[0]: row[1:] for row in found.shown.tables[0].rows}
    assert rows["studied"] == ("32 of 32", "8 of 8", "6 of 6", "6 of 6", "4 of 4", "16 of 16")
    aside, tuning = found.metrics["set aside"]["studied"], found.metrics["tuning"]["studied"]
    assert {kind: one["mean"] for kind, one in aside.items()} == dict.fromkeys(COUNTS, 1.0)
    assert tuning["answered"]["mean"] == tuning["changed"]["mean"] == 0.0
    assert tuning["unanswerable"]["mean"] == 0.0 and tuning["old"]["mean"] == 1.0
    [targets] = found.sections[1].tables
    rows = {row[0]: row[2:] for row in targets.rows}
    assert rows["questions answered, share"] == ["1.00", "0.00 (missed)"]
    assert rows["rise of the loss of known text, worst text"] == ["+3.0% (missed)"] * 2
    assert rows["CPU s for 110 tokens, worst text"] == ["100 (missed)"] * 2
    assert rows["MB of a memory file, worst text"] == ["4.00"] * 2
    replies = found.sections[-1].tables
    assert len(replies) == 12 and sum(len(t.rows) for t in replies) == 80 + 20 + 60


@pytest.mark.slow
def test_cell_learns_answers_corrects_and_answers_again(tmp_path):
    small = tiny_reader()
    for part in small:
        part.save_pretrained(tmp_path / "model")
    study = Manuals(Manuals.Config(model=str(tmp_path / "model"), texts=("vet_fees",)))
    [cell] = study.cells({})
    result = study.run(cell)
    first, second = result.metrics["stages"]
    assert set(first["said"]) == set(WAYS) and set(second["said"]) == set(WAYS) - {"nothing"}
    asked = len(MANUALS["vet_fees"].asked)
    assert all(len(own) == asked for s in (first, second) for own in s["said"].values())
    assert len(result.metrics["known"]) == 2 and first["cpu_seconds"] > 0
    assert study.find({cell.name: result}).answer.startswith("Of ")
