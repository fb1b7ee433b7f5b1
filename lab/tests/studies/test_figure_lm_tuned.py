"""figure-lm-tuned: short runs choose, long ones measure, and the page says where Hope is."""

import dataclasses
import math

import pytest

from nestling.core.result import Result
from nestling_lab.studies.figure_lm_tuned import FigureLmTuned, Setting
from nestling_lab.studies.text import Text

SMALL = dataclasses.replace(
    FigureLmTuned.Config(),
    models=("hope", "mamba2", "transformer"),
    heads=("hope", "mamba2"),
    learning_rates=(1e-3, 2e-3),
    seeds=(0, 1, 2),
    close=("hope", "mamba2"),
    more_seeds=(3,),
)
LOSS = {"hope": 5.0, "mamba2": 4.8, "transformer": 6.0}


def result(cell):
    model = cell.config["preset"].removesuffix("-tiny")
    train = cell.config["train"]
    loss = LOSS[model] + 0.01 * cell.seed + 0.001 * (cell.seed == 1) * len(model)
    loss += 0.5 * (train["learning_rate"] == 1e-3) + 0.1 * (train["layer_rate"] == 1)
    loss -= 0.7 * ("head_period" in cell.config["overrides"])
    metrics = {
        "val_loss": loss,
        "diverged": False,
        "num_parameters": 9,
        "tokens_per_second": 100.0,
        "val_by_position": [{"tokens": 1, "start": 0, "end": 1, "loss": loss, "perplexity": 2.0}],
    }
    return Result(name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed)


def test_every_system_goes_on_with_its_best_setting():
    study = FigureLmTuned(SMALL)
    short = study.cells({})
    assert len(short) == 3 * 4 and {cell.seed for cell in short} == {0}
    done = {cell.name: result(cell) for cell in short if "hope" in cell.name}
    assert study.best("hope", done) == Setting(2e-3, 0.5) and study.best("mamba2", done) is None
    long = study.cells(done)[len(short) :]
    assert [cell.name for cell in long[:2]] == ["hope-0.002x0.5-seed0", "hope-head-0.002x0.5-seed0"]
    assert len(long) == 2 * 3 + 1 and long[-1].name == "hope-0.002x0.5-seed3"
    cells = {cell.name: cell.config for cell in long}
    settings = cells["hope-head-0.002x0.5-seed2"]
    assert settings["overrides"]["head_period"] == 32 and settings["train"]["rates_by_role"]
    assert settings["train"]["steps"] == 300 and settings["train"]["layer_rate"] == 0.5
    assert not study.tuning("mamba2", Setting(1e-3, 1.0)).config["train"]["rates_by_role"]


def test_page_opens_with_the_place_of_hope():
    study = FigureLmTuned(SMALL)
    assert study.find({}).answer == "Nothing has been run yet."
    done = {}
    while new := [cell for cell in study.cells(done) if cell.name not in done]:
        done |= {cell.name: result(cell) for cell in new}
    found = study.find(done)
    assert found.answer == (
        "Static, mamba2 has the lowest loss of 3 and Hope's is significantly below transformer, "
        "significantly above mamba2; with a head written in context mamba2 has the lowest loss of "
        "2 and Hope's is significantly above mamba2."
    )
    static, headed = found.shown.tables
    assert [row[0] for row in static.rows] == ["mamba2", "hope", "transformer"]
    assert [row[0] for row in headed.rows] == ["mamba2-head", "hope-head"]
    assert "-0.7" in headed.rows[0][-1] and "lower" in headed.rows[0][-1]
    assert found.metrics["settings"]["hope"] == "0.002x0.5"
    for name, model in (
        ("transformer-0.002x0.5-seed1", "transformer"),
        ("hope-0.002x0.5-seed1", "Hope"),
    ):
        lost = {"diverged": True, "num_parameters": 9, "val_by_position": []}
        done[name] = dataclasses.replace(done[name], metrics=lost)
        told = study.find(done).answer
        assert f"below the diverged {model}" in told or f"{model} diverged and" in told
    del done["hope-head-0.002x0.5-seed2"]
    assert study.find(done).answer == "Open: 4 of 5 systems have every seed."


def test_a_system_that_always_diverges_does_not_go_on():
    study = FigureLmTuned(SMALL)
    lost = {"diverged": True, "num_parameters": 9}
    cells = [cell for cell in study.cells({}) if "mamba2" in cell.name]
    done = {
        cell.name: Result(name=cell.name, config=cell.config, metrics=lost, seed=0)
        for cell in cells
    }
    assert study.best("mamba2", done) is None and study.cells(done) == study.cells({})
    assert study.find(done).sections[-1].tables[0].rows[1][-1] == "-"


def test_one_training_gives_a_loss():
    small = dataclasses.replace(
        SMALL,
        text=Text(corpus="anarchism", vocab_size=512),
        train=dataclasses.replace(SMALL.train, batch_size=2, sequence_length=64),
        tuning_steps=2,
        tuning_tokens=512,
    )
    study = FigureLmTuned(small)
    found = study.run(study.tuning("samba", Setting(1e-2, 0.5)))
    assert 0 < found.metrics["val_loss"] < 2 * math.log(512)


@pytest.mark.parametrize("model", FigureLmTuned.Config().heads)
def test_models_with_a_head_are_among_the_models(model):
    assert model in FigureLmTuned.Config().models
