"""Every optimizer that can be named trains a model, and goes on from a checkpoint to the bit."""

import dataclasses

import pytest
import torch
from tiny_training import tiny_config, tiny_model

from nestling.core.error import UserError
from nestling.optim.build import default_lr, optimizer_names
from nestling.train.job import make_job
from nestling.train.run import Run
from nestling_lab.bench.training_cost import RandomText


def run_of(name):
    model = tiny_model()
    config = dataclasses.replace(tiny_config(), learning_rate=default_lr(name))
    rows, length = config.batch_size, config.sequence_length
    return Run(model, RandomText(model.config.vocab_size, rows, length), config, name)


@pytest.mark.parametrize("name", optimizer_names())
def test_trains_and_resumes(name, tmp_path):
    run = run_of(name)
    for _ in range(3):
        run.step()
    run.save(tmp_path)
    other = run_of(name)
    assert other.restore(tmp_path)
    for each in (run, other):
        for _ in range(2):
            each.step()
    assert run.totals.loss == other.totals.loss < run.totals.first_loss
    for p, q in zip(run.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_another_optimizer_does_not_take_up_a_run(tmp_path):
    run = run_of("m3")
    run.step()
    run.save(tmp_path)
    config = dataclasses.replace(run.config)
    other = Run(tiny_model(), run.loader, config)
    with pytest.raises(UserError, match="optimizer was m3"):
        other.restore(tmp_path)


def test_a_job_takes_the_rate_of_its_optimizer():
    names = {"preset": "hope-tiny", "vocab_size": 256}
    assert make_job({}, **names).train.learning_rate == 3e-3
    assert make_job({}, **names, optimizer="delta_gd").train.learning_rate == 0.3
    assert make_job({"learning_rate": 0.1}, **names, optimizer="m3").train.learning_rate == 0.1
    with pytest.raises(UserError, match="did you mean 'm3'"):
        make_job({}, **names, optimizer="m33")
