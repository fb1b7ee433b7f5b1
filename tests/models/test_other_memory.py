"""A cache of another model or batch size, or a modified one, is refused before reading."""

import pytest
import safetensors.torch
import torch

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models import MemoryCache, create
from nestling.models.cache import named_tensors
from nestling.models.graphs import Replay

FAMILIES = (
    "hope",
    "hope-attention",
    "transformer",
    "ttt-linear",
    "ttt-mlp",
    "linear-attention",
    "retnet",
    "delta-net",
    "gated-delta-net",
    "lstm",
    "rwkv7",
    "titans-mac",
    "memora",
    "head",
)
IDS = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))


def small(family: str, **options):
    """A model of a family; "head": a transformer whose head is a level."""
    if family == "head":
        family, options = "transformer", {"head_period": 4, **options}
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "seed": 0}
    return create(f"{family}-tiny", **{**sizes, **options}).eval()


@torch.no_grad()
def memory_of(model, ids=IDS) -> MemoryCache:
    return model(ids, use_cache=True).past_key_values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", [{"num_heads": 4}, {"hidden_size": 32}, {"num_hidden_layers": 2}])
def test_memory_of_another_size_is_refused(family, other):
    cache, model = memory_of(small(family, **other)), small(family)
    name = next(iter(other))
    for length in (1, 5):
        with pytest.raises(UserError, match=f"another model: {name} is {other[name]}"):
            model(IDS[:, :length], past_key_values=cache.fork())


def test_memory_of_another_family_or_batch_size_is_refused():
    cache, model = memory_of(small("hope")), small("ttt-linear")
    with pytest.raises(UserError, match="another model: memories"):
        model(IDS, past_key_values=cache)
    with pytest.raises(UserError, match="another model"):
        Replay(model, cache)
    with pytest.raises(UserError, match="2 rows and the batch 1"):
        small("hope")(IDS[:1], past_key_values=cache)
    with pytest.raises(UserError, match=r"give \[2, 9\]"):
        small("hope")(IDS, attention_mask=torch.ones(1, 9))


def tampered(cache: MemoryCache, place: int, change) -> MemoryCache:
    """The cache with one of its tensors changed."""
    counter = iter(range(1000))
    other = cache.fork()
    other.states = map_state(lambda x: change(x) if next(counter) == place else x, cache.states)
    return other


CHANGES = {
    "fewer rows": lambda x: x[:1],
    "one size more": lambda x: x[..., None],
    "a row longer": lambda x: torch.cat((x, x[:, :1]), 1) if x.ndim > 1 else torch.cat((x, x)),
    "another kind": lambda x: x.bool(),
    "elsewhere": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", CHANGES)
def test_changed_tensor_is_refused(family, how, tmp_path):
    model = small(family)
    cache = memory_of(model)
    tensors = [tensor for _, tensor in named_tensors(cache.states)]
    assert tensors
    for place, tensor in enumerate(tensors):
        if how == "a row longer" and not tensor.shape[-1]:
            continue  # a part that this model does not have cannot be longer
        wrong = tampered(cache, place, CHANGES[how])
        # of two tensors that disagree about a growing size, the later one is named
        with pytest.raises(UserError, match="state"):
            model(IDS, past_key_values=wrong)


def test_file_with_resized_tensor_is_refused(tmp_path):
    model = small("hope")
    file = memory_of(model).save(tmp_path / "memory")
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = safetensors.torch.load(file.read_bytes())
    for name in tensors:
        changed = {**tensors, name: tensors[name][:1].clone()}
        file.write_bytes(safetensors.torch.save(changed, about))
        with pytest.raises(UserError):
            MemoryCache.load(file, model)
    for wrong in ({"columns": "x"}, {"columns": "-3"}):
        file.write_bytes(safetensors.torch.save(tensors, {**about, **wrong}))
        with pytest.raises(UserError, match="how much was read"):
            MemoryCache.load(file, model)


@torch.no_grad()
@pytest.mark.parametrize("how", CHANGES)
def test_changed_cached_sum_is_refused(how):
    """In self-modifying Titans: the opening weights of the period, summed when first needed."""
    model = small("hope")
    cache = memory_of(model)
    for place in range(2):
        layers = list(cache.states[0].anchor)
        layers[place] = CHANGES[how](layers[place])
        wrong = cache.fork()
        opened = type(cache.states[0].anchor)(*layers)
        wrong.states = [cache.states[0]._replace(opened=opened), *cache.states[1:]]
        with pytest.raises(UserError, match=r"state\.opened"):
            model(IDS[:, :1], past_key_values=wrong)
    cache.states[0] = cache.states[0]._replace(opened=cache.states[0].anchor)
    model(IDS, past_key_values=cache)
