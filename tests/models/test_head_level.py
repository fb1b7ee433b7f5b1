"""A head that is a level: training, levels, decoding, refusals."""

import pytest
import torch
from small_models import small
from tiny_training import tiny_config, tiny_model, tiny_text
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.memories.head import KEYS
from nestling.models import HopeModel, MemoryCache, configure, create
from nestling.models.decode import read
from nestling.models.functional import FunctionalModel
from nestling.models.graphs import Replay
from nestling.train.job import loader_of
from nestling.train.levels import nested_system
from nestling.train.run import Run, memory_of, memory_state


def ids_of(*shape: int, words: int = 97) -> torch.Tensor:
    return torch.randint(words, shape, generator=torch.Generator().manual_seed(5))


def names_in_documents(count: int, seed: int) -> torch.Tensor:
    """Rows that repeat a few rare words, drawn per row."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        rare = torch.randperm(90, generator=generator)[:3]
        said = rare[torch.randint(3, (24,), generator=generator)]
        rows.append(torch.stack([torch.randint(90, 97, (24,), generator=generator), said], 1))
    return torch.stack(rows).flatten(1)


def loss_after_training(**options) -> float:
    model = create(
        "transformer-tiny", vocab_size=97, hidden_size=32, num_hidden_layers=1, num_heads=2,
        num_kv_heads=2, intermediate_size=32, window=4, **options,
    ).train()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(25):
        ids = names_in_documents(8, step)
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    unseen = names_in_documents(16, 1000)
    with torch.no_grad():
        return float(model(unseen, labels=unseen).loss)


def test_repeated_rare_words_have_lower_loss():
    """The head has learned what a window of four tokens cannot see."""
    plain = loss_after_training(head_period=8)
    assert plain < loss_after_training() - 0.2
    assert loss_after_training(head_period=8, head_keys="context") < plain


@pytest.mark.parametrize("keys", KEYS)
def test_strength_is_trained_and_writes_are_detached(keys):
    model = small("hope", head_period=8, head_keys=keys)
    ids = ids_of(2, 30)
    out = model(ids, labels=ids, use_cache=True)
    out.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.head_level.parameters())
    assert not out.past_key_values.states[-1].weight.requires_grad


def test_head_level_is_a_box_of_the_nested_system():
    model = tiny_model("hope-tiny", head_period=32)
    vocabulary = model.config.vocab_size
    (box,) = [box for box in nested_system(model, "adamw", 64) if box.name == "head"]
    assert (box.period, box.per_sequence, box.parameters) == (32, True, 32 * vocabulary)
    assert "head" not in tiny_model("hope-tiny").levels()


@pytest.mark.parametrize("slots", [None, 24])
def test_training_carries_the_head_memory(slots):
    config = tiny_config(carry=True)
    model = tiny_model("hope-tiny", head_period=16, head_slots=slots)
    loader = loader_of(tiny_text(), model, config)
    run = Run(model, loader, config)
    for _ in range(3):
        run.step()
    restored = memory_of(model, memory_state(run.memory))
    for one, other in zip(run.memory.states[-1], restored.states[-1], strict=True):
        assert torch.equal(one, other)
    # documents start where a period of the head can
    transformer = tiny_model("transformer-tiny", head_period=32)
    assert loader_of(tiny_text(), transformer, config).packer.align == 32


@pytest.mark.parametrize("family", ["hope", "transformer"])
@torch.no_grad()
def test_functional_model_context_holds_head_memory(family):
    model, ids = small(family, head_period=4), ids_of(1, 22)
    whole = model(ids).logits
    functional = FunctionalModel(model)
    _, context = functional.read({}, ids[:, :9])
    context = functional.restore({k: v.clone() for k, v in functional.tensors(context).items()})
    assert_close(functional.read({}, ids[:, 9:], context)[0], whole[:, 9:])


@pytest.mark.parametrize("objective", ["ntp", "teach"])
def test_combines_with_next_token_levels(objective):
    options = {"hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    levels = {"periods": (2, 4), "intermediate_size": 5, "learning_rate": 0.3}
    model = create(
        "transformer-tiny", vocab_size=19, pattern=("attention", "cms_context"), head_period=3,
        objective=objective, **options, **levels,
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    ids = ids_of(2, 17, words=19)
    whole = model(ids).logits
    for cuts in ([1] * 17, [5, 1, 8, 3]):
        cache, found = None, []
        for piece in ids.split(cuts, 1):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
        assert_close(torch.cat(found, 1), whole)
    grads = torch.autograd.grad(whole.square().sum(), list(model.parameters()), allow_unused=True)
    assert grads and all(g is None or g.isfinite().all() for g in grads)
    other = ids.clone()
    other[:, 11:] = (other[:, 11:] + 3) % 19
    assert torch.equal(model(other).logits[:, :11], whole[:, :11])


@pytest.mark.parametrize("slots", [None, 9])
def test_token_by_token_in_one_graph(slots):
    model = small("hope", head_period=8, head_slots=slots)
    ids = ids_of(2, 30)
    _, cache = read(model, ids[:, :11])
    replay, own = Replay(model, cache), cache.fork()
    with torch.no_grad():
        for token in ids[:, 11:].split(1, dim=1):
            want = model(token, past_key_values=own, use_cache=True).logits[:, -1]
            assert_close(replay(token), want)


def test_invalid_options_are_refused(tmp_path):
    with pytest.raises(UserError, match="head_period is 0"):
        configure("hope-tiny", head_period=0)
    with pytest.raises(UserError, match="did you mean 'context'"):
        configure("hope-tiny", head_period=8, head_keys="contexts")
    for option in ({"head_keys": "context"}, {"head_slots": 64}):
        with pytest.raises(UserError, match="without head_period"):
            configure("hope-tiny", **option)
    with pytest.raises(UserError, match="head_slots is 7, fewer than the 8 tokens"):
        configure("hope-tiny", head_period=8, head_slots=7)
    model = small("hope", head_period=8)
    embedded = model.get_input_embeddings()(ids_of(1, 4))
    with pytest.raises(UserError, match="input_ids"):
        model(inputs_embeds=embedded)
    cache = model(ids_of(1, 9), use_cache=True).past_key_values
    with pytest.raises(UserError, match="head"):
        HopeModel(model.config)(ids_of(1, 3), past_key_values=cache)
    file = cache.save(tmp_path / "memory")
    with pytest.raises(UserError, match="head_slots is None there and 9 in this model"):
        MemoryCache.load(file, small("hope", head_period=8, head_slots=9))
    with pytest.raises(UserError, match="head_period is 8 there and None in this model"):
        MemoryCache.load(file, small("hope"))
    plain = small("hope")
    file = plain(ids_of(1, 9), use_cache=True).past_key_values.save(tmp_path / "plain")
    with pytest.raises(UserError, match="head_period is None there and 8 in this model"):
        MemoryCache.load(file, model)
