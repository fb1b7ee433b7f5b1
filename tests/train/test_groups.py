"""Which parameters decay, and which period each group has."""

import pytest
from tiny_training import tiny_model

from nestling.core.error import UserError
from nestling.train.groups import decays, parameter_groups


def names_of(model, groups):
    name = {id(p): n for n, p in model.named_parameters()}
    return [{name[id(p)] for p in group["params"]} for group in groups]


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = tiny_model()
    frozen = model.backbone.norm.weight.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1, periods=model.parameter_periods())
    flat = [id(p) for group in groups for p in group["params"]]
    assert len(flat) == len(set(flat))
    assert set(flat) == {id(p) for p in model.parameters() if p is not frozen}


@pytest.mark.parametrize(
    ("name", "options"), [("hope-tiny", {}), ("transformer-tiny", {"short_convolution": True})]
)
def test_weight_decay_applies_to_linear_weights_only(name, options):
    decay = decays(tiny_model(name, **options))
    kept = {key for key, value in decay.items() if not value}
    for part in ("norm", "bias", "embed", "initial", "convolution"):
        assert all(part not in key for key, value in decay.items() if value), part
    assert any("embed" in key for key in kept) and any("norm" in key for key in kept)
    assert any(value for value in decay.values())


def test_groups_follow_the_periods_of_the_model():
    model = tiny_model()
    groups = parameter_groups(model, weight_decay=0.1, periods=model.parameter_periods())
    assert [(g["period"], g["weight_decay"]) for g in groups] == [
        (0, 0.0), (0, 0.1), (32, 0.0), (32, 0.1), (128, 0.0), (128, 0.1),
    ]  # fmt: skip
    for names, group in zip(names_of(model, groups), groups, strict=True):
        number = {0: None, 32: "chain.0.", 128: "chain.1."}[group["period"]]
        assert all((number in name) if number else ("chain." not in name) for name in names)


def test_nested_levels_use_the_share_of_the_model():
    model = tiny_model(periods=[32, 64, 128], shares=[None, 0.5])
    groups = parameter_groups(
        model,
        weight_decay=0.1,
        periods=model.parameter_periods(),
        shares=model.parameter_shares(),
        matrices=True,
    )
    shares = {group["period"]: group.get("share") for group in groups}
    assert shares == {0: None, 32: None, 64: 0.5, 128: None}
    assert not tiny_model().parameter_shares()
    told = [level.transfer for level in model.levels().values() if "cms" in level.name]
    resets = [[m.partner for m in moves if m.kind == "initialisation"] for moves in told]
    assert resets == [[], ["cms.2"], []]


def test_period_without_parameters_is_refused():
    with pytest.raises(UserError, match="not parameters"):
        parameter_groups(tiny_model(), weight_decay=0.1, periods={"blocks.7.weight": 4})


def test_rates_by_role_are_groups_of_their_own():
    model = tiny_model("hope-tiny")
    rates = model.parameter_rates()
    assert {factor for name, factor in rates.items() if name.endswith("initial_second")} == {0.1}
    assert {factor for name, factor in rates.items() if "chain" in name} == {0.25}
    assert not any("norm" in name or "embed" in name or "eta" in name for name in rates)
    groups = parameter_groups(
        model, weight_decay=0.1, periods=model.parameter_periods(), rates=rates
    )
    for names, group in zip(names_of(model, groups), groups, strict=True):
        assert {rates.get(name, 1.0) for name in names} == {group.get("rate_factor", 1.0)}
    assert not tiny_model("transformer-tiny").parameter_rates()
    with pytest.raises(UserError, match="rates have names that are not"):
        parameter_groups(model, weight_decay=0.1, rates={"other": 0.5})
