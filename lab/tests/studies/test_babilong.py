"""BABILong by streaming: one run of tiny models, the page."""

import dataclasses
import math

import pytest

from nestling.core.result import Result
from nestling_lab.studies.babilong import BabilongStudy, asking, lost
from nestling_lab.studies.needles import Lesson, new_reader

SMALL = dataclasses.replace(
    BabilongStudy.Config(),
    lessons=(Lesson(steps=2, rows=2, length=200), Lesson(steps=1, rows=2, length=256)),
    counts=((256, 2), (512, 1), (1024, 1)),
    longest_growing=512,
)


@pytest.mark.parametrize(("model", "lengths"), [("hope", 3), ("transformer", 2)])
def test_growing_models_are_not_asked_after_the_longest_texts(model, lengths):
    study, told = BabilongStudy(SMALL), []
    found = study.run(study.cell(model, 3e-3, 0), tell=lambda *given: told.append(given))
    scores = found.metrics["scores"]
    assert list(scores) == ["256", "512", "1024"][:lengths]
    for (length, count), one in zip(SMALL.counts, scores.values(), strict=False):
        right, asked = one["right"]
        assert 0 <= right <= asked == count
        assert 0.5 * length * count < one["tokens"] <= 1.1 * length * count
    assert len(told) == 3


def test_lessons_have_room_for_the_facts():
    config = BabilongStudy.Config()
    reader, prose = new_reader(BabilongStudy().cell("hope", 3e-3, 0).config, seed=0, device="cpu")
    for lesson in config.lessons:
        task = asking(reader, config.task, lesson.length, prose)
        for question in task.examples(0, 50):
            assert len(reader.encode(question.prompt)) <= lesson.length


def result(study, model, seed, right):
    cell = study.cell(model, 3e-3, seed)
    scores = {
        str(length): {"right": [min(right, count), count], "tokens": 9, "seconds": 3.0}
        for length, count in study.config.counts
    }
    if model == "transformer":
        del scores["1024"]
    metrics = {"diverged": False, "num_parameters": 9, "scores": scores, "seconds": 1.0}
    return cell.name, Result(name=cell.name, config=cell.config, metrics=metrics, seed=seed)


def test_page_adds_up_the_questions_of_all_seeds():
    study = BabilongStudy(
        dataclasses.replace(SMALL, models=("hope", "transformer"), learning_rates=(3e-3,))
    )
    done = dict(
        result(study, model, seed, right)
        for model, right in (("hope", 1), ("transformer", 0))
        for seed in (0, 1)
    )
    found = study.find(done)
    assert found.metrics["hope"] == {"256": [2, 4], "512": [2, 2], "1024": [2, 2]}
    assert found.metrics["transformer"]["1024"] == [0, 0]
    assert found.answer == (
        "Answered right: at 256 tokens hope 50% and transformer 0%; at 1,024 tokens hope 100%."
    )
    assert found.shown.tables[0].rows[1][-1] == "-"
    some = {name: one for name, one in done.items() if "hope" in name}
    assert study.find(some).answer.startswith("Open; so far answered right: at 256")
    first = {name: one for name, one in done.items() if one.seed == 0}
    assert study.find(first).answer.startswith("Open; ")


def test_rate_is_chosen_at_the_first_length_of_a_saved_result(tmp_path):
    study = BabilongStudy(SMALL)
    _, saved = result(study, "hope", 0, 1)
    file = tmp_path / "one.json"
    saved.write(file)
    assert lost(Result.read(file)) == lost(saved) == 0.5


def test_nothing_is_known_before_the_first_run():
    study = BabilongStudy(SMALL)
    assert study.find({}).answer == "Nothing has been run yet."


def test_diverged_runs_are_never_chosen():
    cell = BabilongStudy(SMALL).cell("hope", 3e-3, 0)
    run = Result(name="x", config=cell.config, metrics={"diverged": True}, seed=0)
    assert lost(run) == math.inf
