"""Presets with overrides, and hints for unknown ones."""

import json

import pytest
import torch

from nestling.core.error import UserError
from nestling.models import (
    HopeConfig,
    HopeForCausalLM,
    configure,
    create,
    preset,
    preset_names,
)
from nestling.models.factory import without_unread


def test_override_reaches_config_or_memories():
    config = configure(
        "hope-tiny",
        vocab_size=50,
        hidden_size=64,
        writes=False,
        intermediate_size=8,
        **{"self_titans.period": 64, "cms.periods": (2, 4)},
    )
    assert (config.vocab_size, config.hidden_size) == (50, 64)
    memories = config.memory_configs()
    assert (memories["self_titans"].writes, memories["self_titans"].period) == (False, 64)
    assert (memories["cms"].intermediate_size, memories["cms"].periods) == (8, (2, 4))


def test_override_is_set_on_every_memory_with_the_option():
    config = configure("transformer-tiny", pattern=["mlp", "cms"], intermediate_size=8)
    assert {m.intermediate_size for m in config.memory_configs().values()} == {8}


def test_new_pattern_drops_options_of_absent_memories():
    config = configure("hope-tiny", pattern=["attention", "cms"])
    assert set(config.memories) == {"cms"}
    assert configure("hope-tiny", pattern=["mlp"], memories={"mlp": {}}).memories == {"mlp": {}}


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("hope-tinny", {}, "did you mean 'hope-tiny'"),
        ("hope-tiny", {"hiden_size": 8}, "did you mean 'hidden_size'"),
        ("hope-tiny", {"write": False}, "did you mean 'writes'"),
        ("hope-tiny", {"self_titans.perod": 8}, "did you mean 'self_titans.period'"),
        ("transformer-tiny", {"writes": False}, "unknown option 'writes'"),
        ("transformer-tiny", {"pattern": ["atention"]}, "did you mean 'attention'"),
        ("transformer-tiny", {"pattern": []}, "at least one"),
        ("transformer-tiny", {"memories": {"mpl": {}}}, "did you mean 'mlp'"),
        ("transformer-tiny", {"memories": {"mlp": {"width": 3}}}, "unknown option mlp.width"),
        ("transformer-tiny", {"hidden_size": "wide"}, "hidden_size must be int"),
        ("transformer-tiny", {"num_heads": 0}, "num_heads is 0"),
        ("transformer-tiny", {"num_heads": 7}, "heads"),
        ("transformer-tiny", {"window": 2.5}, "attention.window must be int"),
        ("hope-tiny", {"periods": (3, 8)}, "dividing"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, options, hint):
    with pytest.raises(UserError) as caught:
        create(name, **options)
    message = str(caught.value)
    assert hint in message and "\n" not in message


def test_saved_model_keeps_its_training_options(tmp_path):
    """Values set by a preset are not defaults of the memory, which old folders rely on."""
    preset = configure("hope-tiny").memory_configs()["self_titans"]
    assert preset.projection_clip == 0.25
    old = HopeConfig(pattern=("self_titans", "cms"), memories={"cms": {"periods": (256, 1024)}})
    old.save_pretrained(tmp_path)
    kept = HopeConfig.from_pretrained(tmp_path).memory_configs()["self_titans"]
    assert kept.projection_clip is None and kept.clips() == (4.0, 4.0)
    off = {f"adaptive_{name}": False for name in ("k", "v", "eta", "alpha")}
    assert not configure("hope-tiny", **off).memory_configs()["self_titans"].adaptive()


def test_saved_option_without_effect_is_dropped(tmp_path):
    """Earlier versions accepted options that are now refused."""
    shape = {"hidden_size": 16, "num_heads": 2, "num_hidden_layers": 1, "vocab_size": 19}
    dead = {"layers": 1, "expansion": 2, "epsilon": 0.5, "momentum": False, "momentum_init": 0.3}
    with pytest.raises(UserError, match="expansion has no effect with layers=1: leave it out"):
        create("titans-lmm-tiny", **shape, **dead)
    live = {"layers": 1, "momentum": False}
    model = create("titans-lmm-tiny", **shape, **live)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    saved["memories"]["titans"] |= dead
    path.write_text(json.dumps(saved))
    loaded = HopeForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.memory_configs() == model.config.memory_configs()
    ids = torch.arange(7)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    # what a run was started with, too
    assert without_unread("titans-lmm-tiny", shape | dead) == shape | live


def test_a_preset_is_a_copy():
    preset("hope-tiny")["memories"]["cms"]["intermediate_size"] = 1
    assert preset("hope-tiny")["memories"]["cms"]["intermediate_size"] > 1
    assert "hope-tiny" in preset_names()


def test_empty_config_builds_a_model():
    assert HopeConfig().memory_configs()


def test_levels_and_periods_of_the_parameters():
    model = create("hope-tiny", vocab_size=16, num_hidden_layers=2, periods=(4, 8))
    periods = model.parameter_periods()
    assert set(periods) == {name for name, _ in model.named_parameters()}
    assert {p for n, p in periods.items() if ".chain.0." in n} == {4}
    assert {p for n, p in periods.items() if ".chain.1." in n} == {8}
    assert {p for n, p in periods.items() if ".chain." not in n} == {0}
    levels = model.levels()
    assert [key for key in levels if key.startswith("3.")] == ["3.cms.0", "3.cms.1"]
    assert levels["0.M_memory"].per_sequence


def test_choice_options_are_checked():
    shape = {"hidden_size": 16, "num_heads": 2, "num_hidden_layers": 1, "vocab_size": 19}
    model = create("comba-tiny", **shape, **{"comba.form": "paper"})
    assert model.config.memory_configs()["comba"].form == "paper"
    with pytest.raises(UserError, match="'code' or 'paper'"):
        create("comba-tiny", **shape, **{"comba.form": "papre"})
