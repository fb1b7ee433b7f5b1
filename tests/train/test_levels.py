"""The nested system of a model and its optimizer (Def 2-4)."""

import json
import math

import pytest
import torch
from tiny_training import tiny_config, tiny_model

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.nested import order
from nestling.core.transfer import Transfer
from nestling.models import HopeForCausalLM, configure
from nestling.models.presets import FAMILIES
from nestling.optim import M3, Leveled
from nestling.optim.build import optimizer_names
from nestling.optim.levels import records_of
from nestling.train import optimizer_of
from nestling.train.levels import as_record, merged, nested_system


def position(system, part):
    return next(i for i, level in enumerate(order(system)) if any(part in b.name for b in level))


def test_transformer_and_adamw_is_the_papers_example():
    """Attention, then both moments on one level, then the weights (SPEC 1.2)."""
    system = nested_system(tiny_model("transformer-tiny"), "adamw", 64)
    names = [[box.name for box in level] for level in order(system)]
    assert names == [
        ["attention"],
        ["adamw m, period 64", "adamw v, period 64"],
        ["mlp", "weights"],
    ]
    assert [level[0].frequency for level in order(system)] == [math.inf, 1 / 64, 1 / 64]


def test_gradient_descent_alone_has_no_level_of_its_own():
    system = nested_system(tiny_model("transformer-tiny"), "sgd", 64)
    assert [len(level) for level in order(system)] == [1, 2]


def test_momentum_is_ordered_before_its_weights():
    system = nested_system(tiny_model("transformer-tiny"), "momentum", 64)
    assert position(system, "momentum m") + 1 == position(system, "weights")


def test_hope_levels_are_sorted():
    system = nested_system(tiny_model("hope-tiny", periods=[128, 512]), "adamw", 64)
    places = [position(system, part) for part in ("M_memory", "weights", "cms.0", "cms.1")]
    assert places == sorted(places) and len(set(places)) == 4
    periods = [box.period for box in system]
    assert periods == sorted(periods)
    first, second = order(system)[:2]
    # the output memory is read at every token, the others once a period
    assert {box.name for box in first} == {
        f"momentum of M_{name}" for name in ("k", "eta", "alpha", "v", "memory")
    }
    assert [box.name for box in second] == ["M_memory"]


@pytest.mark.parametrize("name", ["transformer-tiny", "hope-attention-tiny", "hope-tiny"])
def test_boxes_cover_every_parameter_and_its_moments(name):
    model = tiny_model(name)
    system = nested_system(model, "adamw", 64)
    count = model.num_parameters()
    trained = [b for b in system if not b.per_sequence and not b.name.startswith("adamw")]
    assert sum(box.parameters for box in trained) == count
    assert sum(b.parameters for b in system if b.name.startswith("adamw m")) == count


def test_periods_match_the_optimizer():
    model = tiny_model("hope-attention-tiny", periods=[100, 300])
    optimizer = optimizer_of(model, tiny_config())
    system = nested_system(model, optimizer)
    assert {box.name: box.period for box in system if "cms" in box.name} == {
        "cms.0": 128,
        "cms.1": 320,
    }
    assert set(optimizer.periods()) == {1, 2, 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_transfer_refers_to_a_box(family):
    with torch.device("meta"):
        model = HopeForCausalLM(configure(f"{family}-tiny", vocab_size=64))
    system = nested_system(model, "adamw", 64)
    names = {box.name for box in system}
    moves = [move for box in system for move in box.transfer]
    assert {move.partner for move in moves} <= names
    assert all(box.transfer for box in system if box.name != "weights")
    # a transfer is listed for both boxes
    starts = {box.name for box in system for m in box.transfer if m.partner == "weights"
              and m.kind == "initialisation"}  # fmt: skip
    (weights,) = (box for box in system if box.name == "weights")
    assert starts == {m.partner for m in weights.transfer if m.kind == "initialisation"}


def kinds(preset, box, **options):
    with torch.device("meta"):
        model = HopeForCausalLM(configure(preset, vocab_size=64, num_hidden_layers=1, **options))
    system = nested_system(model, "adamw", 64)
    return {(m.kind, m.partner) for b in system if b.name == box for m in b.transfer}


def test_v1_eq22_28_the_papers_examples_of_transfer():
    """Linear and softmax attention, CMS, learned initial states, optimizers (section 3.3)."""
    assert ("direct", "weights") in kinds("linear-attention-tiny", "linear attention")
    assert ("non-parametric", "weights") in kinds("transformer-tiny", "attention")
    chain = kinds("hope-tiny", "cms.0", periods=[128, 512])
    assert chain == {("back-propagation", "cms.1")}
    nested = kinds("hope-tiny", "cms.0", periods=[128, 512], shares=[0.5])
    assert nested == chain | {("initialisation", "cms.1")}
    assert ("initialisation", "weights") in kinds("titans-lmm-tiny", "M")
    assert kinds("transformer-tiny", "adamw m, period 64") >= {
        ("context generation", "weights"),
        ("direct", "weights"),
    }
    # the memory for keys generates the context of the output memory
    assert ("context generation", "M_memory") in kinds("hope-tiny", "M_k")


def test_unknown_transfer_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown kind of transfer 'osmosis'"):
        Transfer(kind="osmosis", partner="weights", what="")


def test_layers_of_one_kind_share_a_box():
    two = tiny_model("hope-tiny", num_hidden_layers=2)
    one = merged(tiny_model("hope-tiny").levels().values())
    both = merged(two.levels().values())
    assert [box.name for box in both] == [f"{box.name} x2" for box in one]
    assert [box.parameters for box in both] == [2 * box.parameters for box in one]
    known = {box.name for box in both}
    assert all(name in known for box in both for name in box.depends_on)


def test_record_is_plain_json():
    system = nested_system(tiny_model("hope-attention-tiny"), "adamw", 64)
    record = json.loads(json.dumps(as_record(system), allow_nan=False))
    assert [entry["level"] for entry in record] == list(range(1, len(record) + 1))
    assert record[0]["period"] == 0 and record[0]["frequency"] is None
    told = {"name", "rule", "objective", "context", "transfer", "parameters", "depends_on"}
    assert all(told <= set(box) for entry in record for box in entry["boxes"])
    (attention,) = record[0]["boxes"]
    assert attention["transfer"][0] == {
        "kind": "non-parametric",
        "partner": "weights",
        "what": "reads the stored pairs",
        "equations": "27",
        "gradient": False,
    }


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        nested_system(tiny_model("transformer-tiny"), "adamww", 64)


def test_cyclic_dependencies_are_an_error():
    circle = [
        Level(name="a", period=1, depends_on=("b",)),
        Level(name="b", period=1, depends_on=("a",)),
    ]
    with pytest.raises(ValueError, match="cyclic"):
        order(circle)


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_declares_its_boxes_and_is_known_by_its_name(name):
    model, config = tiny_model(), tiny_config()
    by_name = nested_system(model, name, config.tokens_per_step)
    assert nested_system(model, optimizer_of(model, config, name)) == by_name
    weights = sum(box.parameters for box in by_name if box.name == "weights")
    boxes = [box for box in by_name if box.name.startswith(f"{name} ")]
    assert weights and len(boxes) >= len(records_of(name)[1])


def test_m3_slow_momentum_is_slower_than_its_weights():
    system = nested_system(tiny_model("transformer-tiny"), "m3", 64)
    names = [box.name for box in system]
    assert names.index("m3 M1, period 64") < names.index("weights")
    assert names.index("weights") < names.index("m3 M2, period 1024")


@pytest.mark.parametrize("slow", [(), ((4, 0.9, 0.3), (32, 0.95, 0.5))])
def test_m3_has_one_box_per_slow_momentum(slow):
    model = tiny_model("transformer-tiny")
    inner = M3(list(model.parameters()), slow=slow)
    system = nested_system(model, Leveled(inner, tokens_per_step=64))
    names = {box.name for box in system if box.name.startswith("m3 M")}
    assert names == {"m3 M1, period 64"} | {
        f"m3 M{n + 2}, period {64 * period}" for n, (period, _, _) in enumerate(slow)
    }
