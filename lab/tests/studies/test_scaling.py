"""Loss against parameters: equal sizes, the stages of the study, the exponents on its page."""

import dataclasses
import math

import pytest

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.models import create
from nestling_lab.studies.scaling import MODELS, SIZES, Scaling
from nestling_lab.studies.text import Text

SMALL = dataclasses.replace(
    Scaling.Config(), sizes=("0.36M", "0.92M"), tuned=1, learning_rates=(1e-3, 2e-3), seeds=(0, 1)
)


def parameters(model, size):
    shape = SIZES[size].overrides(model)
    return create(f"{model}-tiny", vocab_size=4096, **shape).num_parameters()


@pytest.mark.parametrize("size", SIZES)
def test_models_of_a_size_have_equal_parameters(size):
    counts = [parameters(model, size) for model in MODELS]
    assert max(counts) < 1.01 * min(counts)
    assert counts[0] == pytest.approx(1e6 * float(size.removesuffix("M")), rel=0.02)


def result(cell, size, exponent):
    # the higher rate is the best one everywhere
    count = parameters("hope", size)
    loss = 50 * count**-exponent * (1.1 if cell.name.count("lr0.001") else 1)
    loss *= 1 + 0.001 * cell.seed
    metrics = {"val_loss": loss, "diverged": False, "num_parameters": count}
    return Result(name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed)


def finished(study, exponents):
    done = {}
    while new := [cell for cell in study.cells(done) if cell.name not in done]:
        for cell in new:
            model, size, *_ = cell.name.split("-")
            done[cell.name] = result(cell, size, exponents[model])
    return done


def test_large_sizes_take_the_rate_of_the_last_tuned_one():
    study = Scaling(SMALL)
    first = study.cells({})
    assert len(first) == len(MODELS) * 2 and all("0.36M" in cell.name for cell in first)
    done = finished(study, {"hope": 0.1, "mamba2": 0.1, "transformer": 0.1})
    large = [name for name in done if "0.92M" in name]
    assert len(large) == len(MODELS) * 2 and all("lr0.002" in name for name in large)


def test_page_has_the_exponents():
    study = Scaling(SMALL)
    assert study.find({}).answer == "Nothing has been run yet."
    done = finished(study, {"hope": 0.1, "mamba2": 0.08, "transformer": 0.1})
    found = study.find(done)
    assert found.metrics["hope"]["exponents"] == pytest.approx([0.1, 0.1])
    assert "0.08 +/-" in found.answer and found.answer.endswith(
        "; Hope's interval is apart from that of mamba2 and overlaps with that of transformer."
    )
    large = [name for name in done if name.startswith("mamba2-0.92M")]
    lost = {"diverged": True, "num_parameters": 9}
    for name in large:
        done[name] = dataclasses.replace(done[name], metrics=lost)
    found = study.find(done)
    assert "2 diverged" in str(found.shown.tables[0].rows)
    assert "none (mamba2: diverged)" in found.answer and "mamba2 and" not in found.answer
    del done[large[0]]
    assert study.find(done).answer == "Open: 2 of 3 models have every size and seed."


def test_one_training_gives_a_loss():
    small = dataclasses.replace(
        SMALL,
        text=Text(corpus="anarchism", vocab_size=512),
        train=dataclasses.replace(SMALL.train, steps=2, batch_size=2, sequence_length=64),
        held_out_tokens=512,
    )
    study = Scaling(small)
    cell = study.cell("hope", "0.36M", 1e-2, 0)
    found = study.run(cell)
    assert 0 < found.metrics["val_loss"] < 2 * math.log(512)
    assert cell.config["train"]["rates_by_role"]


def test_tuned_sizes_are_checked():
    with pytest.raises(UserError, match="tuned is 3"):
        dataclasses.replace(SMALL, tuned=3)
    with pytest.raises(UserError, match="two or more"):
        dataclasses.replace(SMALL, sizes=("0.36M",))
