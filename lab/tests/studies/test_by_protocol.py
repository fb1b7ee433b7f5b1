"""Studies of tasks by their published protocol: equal models, one run, the tables."""

import dataclasses
import math

import pytest

from nestling.core.result import Result
from nestling.models import create
from nestling_lab.published import published
from nestling_lab.studies.by_protocol import lost, means_by_seed, sized
from nestling_lab.studies.formal_languages import FormalLanguages
from nestling_lab.studies.mad import MadTasks

STUDIES = (FormalLanguages, MadTasks)


@pytest.mark.parametrize("study", STUDIES)
def test_models_have_equal_parameters(study):
    made = study()
    cells = [made.cell(name, made.config.tasks[0], 1e-3, 0).config for name in study.MODELS]
    counts = [
        create(own["preset"], vocab_size=32, **own["overrides"]).num_parameters() for own in cells
    ]
    assert max(counts) < 1.02 * min(counts)
    config = study.SIZES
    assert set(config.models) == set(study.MODELS) and set(config.tasks) == set(study.TITLES)
    assert published(study.PAPER).rows


def small(study, **changed):
    config = dataclasses.replace(study.SIZES, learning_rates=(1e-3,), seeds=(0,), **changed)
    return study(config)


def test_one_training_is_measured_in_both_bins():
    study = small(FormalLanguages, epochs=2, train_examples=16, batch_size=8, rows=4)
    cell = study.cell("lstm", "formal-aa-star", 1e-3, 0)
    told = []
    found = study.run(cell, tell=lambda *given: told.append(given))
    assert list(found.metrics["scores"]) == ["bin 0", "bin 1"]
    assert all(0 <= score <= 1 for score in found.metrics["scores"].values())
    assert 1 <= found.metrics["pass"] <= found.metrics["passes"] == 2
    assert told == [(2, 2, pytest.approx(1 - found.metrics["score"]))]
    assert study.run(cell).metrics["scores"] == found.metrics["scores"]


def test_rows_to_train_on_are_those_of_the_study():
    assert sized("mad-recall", 64).config.train_examples == 64


def result(cell, score, seed):
    scores = {"bin 0": 1.0, "bin 1": score}
    metrics = {
        "score": (1 + score) / 2, "scores": scores, "diverged": False, "num_parameters": 9,
        "seconds": 2.0, "passes": 3, "pass": 3,
    }  # fmt: skip
    return Result(name=cell.name, config=cell.config, metrics=metrics, seed=seed)


def test_page_orders_the_models_by_their_mean():
    study = FormalLanguages(
        dataclasses.replace(
            FormalLanguages.SIZES, models=("hope", "lstm"), seeds=(0, 1), learning_rates=(1e-3,)
        )
    )
    own = {"hope": 1.0, "lstm": 0.5}
    done = {}
    for seed in (0, 1):
        for task in study.config.tasks:
            for model, score in own.items():
                cell = study.cell(model, task, 1e-3, seed)
                done[cell.name] = result(cell, score - 0.01 * seed, seed)
    assert len(study.cells(done)) == len(done)
    found = study.find(done)
    assert (
        found.answer.startswith("Hope is first: ")
        and "hope (0.998) and lstm (0.748)" in found.answer
    )
    [table] = found.shown.tables
    assert [row[0] for row in table.rows] == ["hope", "lstm"] and "1 " in table.rows[0][1]
    means = means_by_seed(study.found(done)["lstm"], study.config.tasks)
    assert means == pytest.approx([0.75, 0.745])
    assert found.metrics["lstm"]["formal-parity"] == {
        "bin 0": 1.0,
        "bin 1": pytest.approx(0.495),
    }
    first = {name: one for name, one in done.items() if one.seed == 0}
    assert study.find(first).answer == "Open: 0 of 2 models are complete."
    some = {name: one for name, one in done.items() if "lstm" not in name}
    assert study.find(some).answer == "Open: 1 of 2 models are complete."
    assert study.find({}).answer == "Nothing has been run yet."


def test_diverged_runs_are_never_chosen():
    study = small(MadTasks)
    cell = study.cell("hope", "mad-recall", 1e-3, 0)
    metrics = {"diverged": True}
    assert lost(Result(name="x", config=cell.config, metrics=metrics, seed=0)) == math.inf
