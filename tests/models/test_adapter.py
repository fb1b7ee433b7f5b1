"""PEFT adapters: a model with one learns like the base merged with it."""

import copy
import json

import peft
import pytest
import torch
from small_models import small
from tiny_bases import VOCABULARY, tiny_base
from transformers import AutoModelForCausalLM

from nestling.continual import ContinualLearner
from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models.foreign import load_causal_lm
from nestling.models.pretrained import (
    load_base,
    load_stacked,
    parse_levels,
    save_stacked,
    save_with,
)
from nestling.models.pretrained.adapter import holds_adapter, plain

LEVELS = "8:1e-2,32:1e-2"
LINEAR = ["q_proj", "down_proj", "up_proj"]
CONFIGS = {
    "lora": lambda: peft.LoraConfig(target_modules=LINEAR, task_type="CAUSAL_LM"),
    "dora": lambda: peft.LoraConfig(target_modules=LINEAR, use_dora=True),
    "loha": lambda: peft.LoHaConfig(target_modules=LINEAR),
    "ia3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["down_proj"]),
    "saved": lambda: peft.LoraConfig(target_modules=LINEAR, modules_to_save=["lm_head"]),
}


@pytest.fixture(scope="module")
def ids():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, VOCABULARY, (1, 40), generator=generator)


def stirred(model):
    """The model with its trainable parameters perturbed, because adapters start at zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * noise)
    return model.eval()


def wrapped(kind, base=None):
    base = tiny_base("llama") if base is None else base
    return stirred(peft.get_peft_model(base, CONFIGS[kind]()))


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_learner_starts_from_wrapped_model_without_changing_it(kind, ids):
    model = wrapped(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = logits(model, ids)
    assert (expected - logits(tiny_base("llama"), ids)).abs().max() > 1e-3
    learner = ContinualLearner(model, levels=LEVELS)
    found = logits(learner.base.model, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    learner.read_tokens(ids[0].tolist())
    assert any(bool(m.any()) for level in learner.state.levels for m in level.moved)
    assert torch.equal(logits(model, ids), expected)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    names = dict(learner.base.model.named_parameters())
    assert set(names) == set(dict(tiny_base("llama").named_parameters()))


def test_weights_without_adapter_are_shared():
    model = wrapped("lora")
    learner = ContinualLearner(model, levels=LEVELS)
    mine = {id(p) for p in learner.base.model.parameters()}
    base = model.get_base_model().model
    assert id(base.embed_tokens.weight) in mine
    assert id(base.layers[0].mlp.gate_proj.weight) in mine
    assert id(base.layers[0].mlp.up_proj.base_layer.weight) not in mine


def test_tied_weights_with_adapter_are_not_shared(ids):
    base = tiny_base("llama")
    base.lm_head.weight = base.model.embed_tokens.weight
    config = peft.LoraConfig(target_modules=["embed_tokens"])
    model = stirred(peft.get_peft_model(base, config))
    expected = logits(model, ids)
    kept = base.lm_head.weight.clone()
    plain(model)
    assert torch.equal(base.lm_head.weight, kept) and torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("state", ["off", "merged", "put in", "put in and off", "two"])
def test_active_adapters_are_merged(ids, state):
    if state.startswith("put in"):
        model = tiny_base("llama")
        model.add_adapter(CONFIGS["lora"]())
        stirred(model)
        if state.endswith("off"):
            model.disable_adapters()
    else:
        model = wrapped("saved" if state == "off" else "lora")
    if state == "merged":
        model.merge_adapter()
    elif state == "off":
        model.base_model.disable_adapter_layers()
    elif state == "two":
        model.add_adapter("second", CONFIGS["lora"]())
        model.set_adapter("second")
        stirred(model)
        model.base_model.set_adapter(["default", "second"])
    expected = logits(model, ids)
    found = plain(model)
    torch.testing.assert_close(logits(found, ids), expected, rtol=0, atol=1e-5)
    assert torch.equal(logits(model, ids), expected)
    base = logits(tiny_base("llama"), ids)
    assert torch.allclose(expected, base, atol=1e-5) == state.endswith("off")


def test_own_models_accept_adapters(ids):
    model = small("hope", periods=(8, 32))
    config = peft.LoraConfig(target_modules="all-linear")
    model = stirred(peft.get_peft_model(model, config))
    learner = ContinualLearner(model)
    assert len(learner.levels) == 2
    expected = logits(model, ids)
    torch.testing.assert_close(logits(learner.base.model, ids), expected, rtol=0, atol=1e-4)


def test_prompt_tuning_is_refused():
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_base("llama"), config)
    with pytest.raises(UserError, match="cannot be merged") as raised:
        ContinualLearner(model, levels=LEVELS)
    assert "\n" not in str(raised.value)


# folders


@pytest.fixture
def folders(tmp_path):
    """A base with named levels, and an adapter folder that names the base."""
    tiny_base("llama", vocab_size=258).save_pretrained(tmp_path / "plain")
    byte_tokenizer().save_pretrained(tmp_path / "plain")
    base = tmp_path / "base"
    save_stacked(load_base(tmp_path / "plain"), parse_levels(LEVELS), "partition", base)
    model = wrapped("lora", load_base(base).model)
    model.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter", model


def test_adapter_folder_loads_base_and_adapter(folders, ids):
    base, adapter, model = folders
    expected = logits(model, ids)
    assert holds_adapter(adapter) and not holds_adapter(base)
    found = load_base(adapter)
    assert len(found.tokenizer) == 258
    stacked = load_stacked(adapter)
    assert [level.period for level in stacked.levels] == [32, 8]
    for read in (found.model, stacked.model, load_causal_lm(adapter)[0]):
        torch.testing.assert_close(logits(read, ids), expected, rtol=0, atol=1e-5)
    assert [level.period for level in load_stacked(adapter, parse_levels("16")).levels] == [16]


def test_adapter_memory_fits_the_merged_model(folders, tmp_path, ids):
    _, adapter, model = folders
    learner = ContinualLearner(load_stacked(adapter))
    learner.read_tokens(ids[0].tolist())
    learner.save(tmp_path / "m")
    other = ContinualLearner(model, levels=LEVELS)
    other.load(tmp_path / "m")
    with pytest.raises(UserError, match="another base model"):
        ContinualLearner(load_stacked(folders[0])).load(tmp_path / "m")


def test_adapter_of_own_model(tmp_path, ids):
    from nestling.models.folder import save_model

    tokenizer = byte_tokenizer()
    model = small("hope", vocab_size=len(tokenizer), periods=(8, 32))
    save_model(model, tokenizer, tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    tuned = stirred(peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear")))
    tuned.save_pretrained(tmp_path / "adapter")
    expected = logits(tuned, ids)
    stacked = load_stacked(tmp_path / "adapter")
    assert [level.period for level in stacked.levels] == [32, 8]
    for read in (stacked.model, load_causal_lm(tmp_path / "adapter")[0]):
        torch.testing.assert_close(logits(read, ids), expected, rtol=0, atol=1e-4)


def test_adapter_beside_its_model_is_merged(folders, ids):
    base, adapter, model = folders
    for file in adapter.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    found = load_stacked(base).model
    torch.testing.assert_close(logits(found, ids), logits(model, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model_name_or_path": "no/such/base"}, "adapter of no/such/base, which cannot be"),
        ({"base_model_name_or_path": None}, "has no base_model_name_or_path"),
        ({"peft_type": "NONSENSE"}, "cannot be merged"),
        (None, "cannot be read; copy the adapter again"),
    ],
)
def test_unusable_adapter_config_is_one_line(folders, change, message):
    _, adapter, _ = folders
    path = adapter / "adapter_config.json"
    text = json.dumps(json.loads(path.read_text()) | change) if change else "{"
    path.write_text(text)
    for load in (load_base, load_stacked, load_causal_lm):
        with pytest.raises(UserError, match=message) as raised:
            load(adapter)
        assert "\n" not in str(raised.value)


def test_adapter_of_other_sizes_is_one_line(folders):
    base, adapter, _ = folders
    tiny_base("gpt2", vocab_size=258).save_pretrained(base)
    with pytest.raises(UserError, match="cannot be merged"):
        load_base(adapter)


def test_adapter_with_missing_weights_is_one_line(folders):
    from safetensors.torch import load_file, save_file

    path = folders[1] / "adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path)
    with pytest.raises(UserError, match="missing adapter keys"):
        load_base(folders[1])


def test_without_peft_error_says_what_to_install(folders, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="nestling.continual."):
        load_base(folders[1])
    assert plain(base := copy.deepcopy(tiny_base("llama"))) is base


@pytest.mark.parametrize("put_in", [False, True])
def test_learned_adapter_model_is_exported_whole(tmp_path, ids, put_in):
    model = tiny_base("llama") if put_in else wrapped("lora")
    if put_in:
        model.add_adapter(CONFIGS["lora"]())
        stirred(model)
    learner = ContinualLearner(model, levels=LEVELS)
    learner.read_tokens(ids[0].tolist())
    save_with(learner.base, learner.weights(), tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = learner.base.model
    with torch.no_grad():
        for name, value in learner.weights().items():
            assert torch.equal(found.get_parameter(name), value)
    assert set(dict(found.named_parameters())) == set(dict(expected.named_parameters()))
