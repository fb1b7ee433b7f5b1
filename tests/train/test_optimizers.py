"""Every optimizer by name trains a model and resumes bitwise."""

import copy
import dataclasses

import pytest
import torch
from tiny_training import tiny_config, tiny_model

from nestling.core.error import UserError
from nestling.optim.build import build, default_lr, optimizer_names
from nestling.train.groups import parameter_groups
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


@pytest.mark.parametrize("name", optimizer_names())
def test_rate_factor_scales_the_rate(name):
    """Each parameter moves as in a run at its own rate, for every optimizer."""
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    x, lr, factor = torch.randn(6, 5), default_lr(name), 0.25

    rates = {"1.weight": factor, "0.bias": factor}

    def stepped(alike=None):
        # in the same groups, since deep momentum has one memory for each
        module = copy.deepcopy(start)
        groups = parameter_groups(module, weight_decay=0.1, rates=rates, matrices=name != "adamw")
        optimizer = build(name, module, groups, lr=lr)
        for group in optimizer.param_groups:
            group["lr"] = alike or group["lr"]
        module(x).square().sum().backward()
        optimizer.step()
        return dict(module.named_parameters())

    mixed, whole, part = stepped(), stepped(lr), stepped(lr * factor)
    for key, value in mixed.items():
        expected = part if key in rates else whole
        torch.testing.assert_close(value, expected[key])
        assert not torch.equal(whole[key], part[key])


def test_a_run_with_rates_by_role_keeps_their_ratio_and_resumes(tmp_path):
    config = dataclasses.replace(tiny_config(), rates_by_role=True)
    model = tiny_model("hope-tiny")
    run = Run(model, RandomText(model.config.vocab_size, 4, 64), config)
    for _ in range(2):
        run.step()
        groups = run.optimizer.param_groups
        assert {group["lr"] / run.rate for group in groups} == {1.0, 0.25, 0.1}
    run.save(tmp_path)
    other = Run(tiny_model("hope-tiny"), RandomText(model.config.vocab_size, 4, 64), config)
    assert other.restore(tmp_path)
    plain = dataclasses.replace(config, rates_by_role=False)
    other = Run(tiny_model("hope-tiny"), RandomText(model.config.vocab_size, 4, 64), plain)
    with pytest.raises(UserError, match="rates_by_role was True.*--set rates_by_role=true"):
        other.restore(tmp_path)


def test_runs_of_before_resume_where_no_memory_has_a_rate_of_its_own(tmp_path):
    plain = dataclasses.replace(tiny_config(), rates_by_role=False)
    for preset, same in (("transformer-tiny", True), ("hope-tiny", False)):
        made = [
            Run(model := tiny_model(preset), RandomText(model.config.vocab_size, 4, 64), config)
            for config in (plain, tiny_config())
        ]
        made[0].step()
        made[0].save(tmp_path / preset)
        if same:
            assert made[1].restore(tmp_path / preset)
        else:
            with pytest.raises(UserError, match="--set rates_by_role=false"):
                made[1].restore(tmp_path / preset)


@pytest.mark.parametrize(("by_role", "factors"), [(False, {1, 0.5}), (True, {1, 0.5, 0.125, 0.05})])
def test_layers_have_a_rate_of_their_own(by_role, factors):
    config = dataclasses.replace(tiny_config(), rates_by_role=by_role, layer_rate=0.5)
    model = tiny_model("hope-tiny")
    run = Run(model, RandomText(model.config.vocab_size, 4, 64), config)
    run.step()
    groups = run.optimizer.param_groups
    assert {group["lr"] / run.rate for group in groups} == factors
    whole = {id(p) for group in groups if group["lr"] == run.rate for p in group["params"]}
    layers = {id(p) for block in model.body.each() for p in block.parameters()}
    assert whole and not whole & layers
    assert id(model.get_input_embeddings().weight) in whole
    with pytest.raises(UserError, match="layer_rate is 0"):
        dataclasses.replace(config, layer_rate=0.0)


def test_resuming_with_another_optimizer_is_refused(tmp_path):
    run = run_of("m3")
    run.step()
    run.save(tmp_path)
    config = dataclasses.replace(run.config)
    other = Run(tiny_model(), run.loader, config)
    with pytest.raises(UserError, match="optimizer was m3"):
        other.restore(tmp_path)


def test_default_rate_depends_on_the_optimizer():
    names = {"preset": "hope-tiny", "vocab_size": 256}
    assert make_job({}, **names).train.learning_rate == 3e-3
    assert make_job({}, **names, optimizer="delta_gd").train.learning_rate == 0.3
    assert make_job({"learning_rate": 0.1}, **names, optimizer="m3").train.learning_rate == 0.1
    with pytest.raises(UserError, match="did you mean 'm3'"):
        make_job({}, **names, optimizer="m33")
