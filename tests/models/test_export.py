"""Exported models: plain transformers models with the same logits."""

import pytest
import torch
from tiny_bases import VOCABULARY, tiny_base
from tolerances import assert_close
from transformers import AutoModelForCausalLM

from nestling.continual import ContinualLearner
from nestling.continual.consolidate import Plan, consolidate
from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import (
    FAMILIES,
    VARIANTS,
    load_stacked,
    parse_levels,
    save_with,
    stack_model,
)
from nestling.models.pretrained.fold import folded


@pytest.fixture(scope="module")
def ids():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, VOCABULARY, (1, 60), generator=generator)


def exported(base, weights, place):
    save_with(base, weights, place)
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    return model, type(model)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_levels_export_to_one_wider_mlp(family, ids, tmp_path):
    """For every family, with arbitrary weights and biases."""
    base = stack_model(tiny_base(family), None, parse_levels("8,32,inf"), "independent")
    own = dict(base.model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: own[name].detach() + 0.1 * torch.randn(own[name].shape, generator=generator)
        for group in base.parameters
        for name in group
    }
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    expected, _ = FunctionalModel(base.model).read(weights, ids)
    model, kind = exported(base, weights, tmp_path)
    assert kind is type(base.model)
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-5)
    assert (expected - logits(base.model, ids)).abs().max() > 1e-2
    after = base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # like any other model, it can be divided into levels again
    again = load_stacked(tmp_path, parse_levels("8,32"))
    torch.testing.assert_close(logits(again.model, ids), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_wider_mlp_equals_the_sum_in_float64(family, ids):
    """The difference in float32 is rounding."""
    base = stack_model(tiny_base(family).double(), None, parse_levels("8,32,inf"), "independent")
    own = dict(base.model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: own[name].detach() + torch.randn(own[name].shape, generator=generator).double()
        for group in base.parameters
        for name in group
    }
    expected, _ = FunctionalModel(base.model).read(weights, ids)
    assert_close(logits(folded(base, weights), ids), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("variant", sorted({*VARIANTS} - {"chain", "low-rank"}))
def test_exported_model_matches_the_learner(family, variant, ids, tmp_path):
    """Export after study (low-rank) is tested in tests/cli/test_study.py."""
    levels = parse_levels("8:3e-2,32:3e-2:momentum")
    learner = ContinualLearner(tiny_base(family), levels=levels, variant=variant)
    learner.read_tokens(ids[0].tolist())
    with torch.no_grad():
        expected, _ = learner.reader.read(learner.weights(), ids)
        base, _ = learner.reader.read({}, ids)
    model, _ = exported(learner.base, learner.weights(), tmp_path)
    torch.testing.assert_close(logits(model, ids), expected, rtol=0, atol=1e-5)
    assert (expected - base).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_chain_exports_only_with_empty_fast_levels(family, ids, tmp_path):
    """Once one is written, export is refused with the reason and leaves no files."""
    model = tiny_base(family, vocab_size=258)
    levels = parse_levels("8:3e-2,64:3e-2")
    learner = ContinualLearner(model, byte_tokenizer(), levels=levels, variant="chain")
    first = logits(tiny_base(family, vocab_size=258), ids)
    plain, _ = exported(learner.base, learner.weights(), tmp_path / "base")
    assert torch.equal(logits(plain, ids), first)
    learner.read("abcabdabcabe" * 12)
    with pytest.raises(UserError, match="level 8:0.03:adam of this chain has been written") as told:
        save_with(learner.base, learner.weights(), tmp_path / "none")
    assert "consolidate" in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "none").exists()
    consolidate(learner, Plan(budget=500, batch=160, length=16), ("abcabdabcabe" * 12,))
    with torch.no_grad():
        expected, _ = learner.reader.read(learner.weights(), ids)
    plain, _ = exported(learner.base, learner.weights(), tmp_path / "rested")
    torch.testing.assert_close(logits(plain, ids), expected, rtol=0, atol=1e-5)
    assert (expected - first).abs().max() > 1e-3
