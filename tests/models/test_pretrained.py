"""Models of every family are divided into levels without changing their outputs."""

import json

import pytest
import torch
from small_models import small
from tiny_bases import VOCABULARY, tiny_base

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models import create
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import (
    FAMILIES,
    VARIANTS,
    load_base,
    load_stacked,
    parse_levels,
    save_stacked,
    stack_model,
    studied_level,
    with_layers,
)

LEVELS = parse_levels("8,32,inf")


def levels_of(variant, levels=LEVELS):
    """Levels for a variant; low-rank has its own."""
    return [studied_level()] if variant == "low-rank" else levels


@pytest.fixture(scope="module")
def ids():
    generator = torch.Generator().manual_seed(3)
    return torch.randint(VOCABULARY, (1, 50), generator=generator)


@torch.no_grad()
def in_parts(model, ids):
    reader, context, parts = FunctionalModel(model), None, []
    for piece in ids.split([13, 1, 20, 16], dim=1):
        logits, context = reader.read({}, piece, context)
        context = reader.restore({k: v.clone() for k, v in reader.tensors(context).items()})
        parts.append(logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_converts_and_matches(family, variant, ids):
    """Read whole, and in parts with a context converted to tensors and back."""
    model = tiny_base(family)
    with torch.no_grad():
        expected = model(ids).logits
        levels = stack_model(model, None, levels_of(variant), variant)
        found = model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_parts(model, ids), expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3
    names = [name for group in levels.parameters for name in group]
    assert len(set(names)) == len(names) > 0
    assert set(names) <= set(dict(model.named_parameters()))
    if variant == "whole":
        assert set(names) == set(dict(model.named_parameters()))
    else:
        assert all(".mlp." in name for name in names)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_level_has_a_gradient(family, variant, ids):
    """In a chain, whose added levels start with a zero output map, only that map has one."""
    model = tiny_base(family)
    levels = stack_model(model, None, levels_of(variant, parse_levels("8,32")), variant)
    loss = model(ids, labels=ids).loss
    own = dict(model.named_parameters())
    for group in levels.parameters:
        grads = torch.autograd.grad(loss, [own[name] for name in group], retain_graph=True)
        assert any(bool(grad.any()) for grad in grads)


def test_layers_are_assigned_to_levels_slow_to_fast():
    def layers(group):
        return sorted({int(name.split(".")[2]) for name in group})

    model = tiny_base("llama")
    shared = stack_model(model, None, LEVELS)
    assert [level.text for level in shared.levels] == ["inf", "32:0.0001:adam", "8:0.0001:adam"]
    assert [layers(group) for group in shared.parameters] == [[0], [1], [2, 3]]
    chosen = stack_model(model, None, with_layers(parse_levels("8,32"), "1,2-3"))
    assert [layers(group) for group in chosen.parameters] == [[1], [2, 3]]


def test_parallel_levels_split_the_mlp_weights():
    """Eq 74: the weighted sum of two MLPs; each weight belongs to its level and has a gradient."""
    model = tiny_base("llama").double()
    shared = stack_model(model, None, parse_levels("8,32"), "independent")
    place = model.get_submodule("model.layers.1.mlp")
    own = dict(model.named_parameters())
    weights = [
        [own[n] for n in group if n.endswith(".weight") and own[n].ndim == 1]
        for group in shared.parameters
    ]
    assert [len(group) for group in weights] == [4, 4]
    x = torch.randn(2, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        place.levels[0].weight.fill_(0.7)
        place.levels[1].weight.fill_(-0.2)
    first, second = (level.mlp(x) for level in place.levels)
    torch.testing.assert_close(place(x), 0.7 * first - 0.2 * second)
    grads = torch.autograd.grad(place(x).square().sum(), [level.weight for level in place.levels])
    assert all(float(grad.abs()) > 0 for grad in grads)


def test_whole_layers_include_embedding_and_head():
    shared = stack_model(tiny_base("gpt2"), None, parse_levels("8,32"), "whole")
    slow, fast = shared.parameters
    assert slow[:2] == ("transformer.wte.weight", "transformer.wpe.weight")
    assert fast[-2:] == ("transformer.ln_f.weight", "transformer.ln_f.bias")
    layers = [sorted({n.split(".")[2] for n in g if ".h." in n}) for g in (slow, fast)]
    assert layers == [["0", "1"], ["2", "3"]]
    assert any(".attn." in name for name in fast)


def test_own_transformer_is_partitioned():
    """A model with CMS levels keeps them; one with neither cannot learn."""
    model = small("transformer")
    levels = stack_model(model, None, parse_levels("8,32"))
    groups = [sorted({name.split(".")[2] for name in group}) for group in levels.parameters]
    assert groups == [["1"], ["3"]] and levels.variant == "partition"
    with pytest.raises(UserError, match="--levels"):
        stack_model(model, None)
    hope = stack_model(small("hope"), None)
    assert [level.period for level in hope.levels] == [1024, 256] and hope.variant == "cms"
    with pytest.raises(UserError, match="2 CMS levels, but 1"):
        stack_model(small("hope"), None, parse_levels("8"))
    with pytest.raises(UserError, match="neither"):
        stack_model(create("hope-tiny", num_hidden_layers=1, pattern=("self_titans",)), None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapted_folder_round_trip(tmp_path, variant, ids):
    base, out = tmp_path / "base", tmp_path / "out"
    model = tiny_base("qwen2").to(torch.bfloat16)
    model.save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    read = load_base(base)
    assert read.dtype == "bfloat16" and read.model.dtype == torch.float32
    with torch.no_grad():
        expected = read.model(ids).logits
    whole = save_stacked(read, levels_of(variant), variant, out)
    again = load_stacked(out)
    assert (again.levels, again.parameters, again.variant) == whole[2:]
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, expected, rtol=0, atol=1e-5)
    text = "any text"
    assert again.tokenizer(text).input_ids == byte_tokenizer()(text).input_ids
    # transformers itself reads the folder as the base
    assert torch.equal(load_base(out).model(ids).logits, expected)


def test_folder_without_tokenizer_loads_none(tmp_path):
    tiny_base("gpt2").save_pretrained(tmp_path)
    assert load_base(tmp_path).tokenizer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "contains no model"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: _set(folder, model_type="lama"), "did you mean 'llama'"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: _set(folder, num_hidden_layers=5), "lack"),
        (lambda folder: (folder / "levels.json").write_text("[]"), "cannot be read"),
        (lambda folder: (folder / "levels.json").write_text('{"format": 9}'), "newer"),
    ],
)
def test_damaged_folder_is_one_line(tmp_path, change, message):
    tiny_base("llama").save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_stacked(tmp_path)
    assert "\n" not in str(caught.value)


def _set(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_invalid_levels_are_refused(tmp_path):
    model = tiny_base("llama")
    for levels, message in (
        (parse_levels("1,2,4,8,16"), "5 levels"),
        (with_layers(parse_levels("8,16"), "0-1,4"), "layer 4"),
        (with_layers(parse_levels("8,16"), "0-1,1"), "several levels"),
    ):
        with pytest.raises(UserError, match=message):
            stack_model(model, None, levels)
    with pytest.raises(UserError, match="did you mean 'chain'"):
        stack_model(model, None, LEVELS, "chains")
    with pytest.raises(UserError, match="leave out layers"):
        stack_model(model, None, with_layers(parse_levels("8,16"), "0,1"), "chain")
    with pytest.raises(UserError, match="--levels"):
        stack_model(model, None)
    for source in ("nowhere", "./no/where", "model.gguf", "a/b/c"):
        with pytest.raises(UserError, match="there is no"):
            load_base(source)
    for text in ("0-1", "0-1,x"):
        with pytest.raises(UserError):
            with_layers(parse_levels("8,16"), text)
