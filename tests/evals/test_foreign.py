"""Transformers models of every kind: read in pieces as at once, or refused in one line."""

import pytest
import torch
from foreign_models import OPTIONS, tiny_model_of
from readers import ids_of

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.requests import Ask, Memory
from nestling.models.held import Held
from nestling.models.pieces import Pieces, Way

REFUSED = ("reformer", "bert", "xlnet")  # they look ahead
# one per way of reading, and common models; the others are marked slow because they are many
OFTEN = (
    "llama", "gpt2", "openai-gpt", "mamba", "mamba2", "rwkv", "recurrent_gemma", "jamba", "bamba",
    "minimax", "qwen3_next", "zamba2", "lfm2",
)  # fmt: skip
READ = [
    kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow)
    for kind in OPTIONS
    if kind not in REFUSED
]


@pytest.fixture(scope="module")
def reader_of():
    made = {}

    def make(kind):
        if kind not in made:
            model = tiny_model_of(kind)
            made[kind] = Reader(model, byte_tokenizer(), name=kind, segment=7)
        return made[kind]

    return make


def whole(found, ids):
    """Log-probabilities of the next token at each position, in one call."""
    with torch.no_grad():
        return found.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("kind", READ)
def test_losses_match_full_forward(kind, reader_of):
    found = reader_of(kind)
    ids = ids_of(found)[:44]  # of which the last segment holds one token
    wanted = -whole(found, ids)[:-1].gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    parts = torch.cat(list(found.losses(torch.tensor([ids, ids[::-1]]))), 1)[0]
    torch.testing.assert_close(parts, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", READ)
def test_choices_of_any_length_match_full_forward(kind, reader_of):
    found = reader_of(kind)
    context = tuple(ids_of(found)[:30])
    asks = [Ask(context, rest) for rest in ((70, 71, 72), (7,), (80, 81))]
    for ask, (score, _) in zip(asks, Memory(found).score(asks), strict=True):
        words = whole(found, [*context, *ask.continuation])[29:-1]
        wanted = words.gather(-1, torch.tensor(ask.continuation)[:, None]).sum()
        assert score == pytest.approx(float(wanted), rel=2e-3)


@pytest.mark.parametrize("kind", READ)
def test_greedy_generation_and_memory_continuation(kind, reader_of):
    found = reader_of(kind)
    ids = ids_of(found)[:21]
    wanted = list(ids)
    for _ in range(5):
        wanted.append(int(whole(found, wanted)[-1].argmax()))
    text = found.decode(wanted[21:])
    assert found.write(ids, tokens=5) == text
    _, cache = found.read(torch.tensor([ids[:15]]))
    other = found.fork(cache)
    found.read(torch.tensor([[7] * 9]), other)
    assert cache.get_seq_length() == 15 and other.get_seq_length() == 24
    assert found.write(ids[15:], tokens=5, cache=cache) == text


@pytest.mark.parametrize("kind", READ)
def test_batched_generation_equals_single(kind, reader_of):
    found = reader_of(kind)
    rows = [ids_of(found)[:21], ids_of(found)[5:9], ids_of(found)[:12]]
    assert found.write_rows(rows, tokens=4) == [found.write(ids, tokens=4) for ids in rows]


@pytest.mark.parametrize("kind", REFUSED)
def test_non_causal_model_is_refused(kind, reader_of):
    found = reader_of(kind)
    with pytest.raises(UserError, match=f"predictions of {kind} for the start"):
        found.read(torch.tensor([ids_of(found)]))


def test_fastest_correct_method_is_chosen(reader_of):
    ways = {kind: reader_of(kind).pieces.way for kind in OFTEN}
    assert ways["llama"] == Way("past_key_values", positions=True, writes_on=True)
    assert ways["mamba2"].name == "cache_params" and not ways["mamba2"].steps
    assert ways["openai-gpt"].name is None
    assert all(way.writes_on or way.name is None for kind, way in ways.items() if kind != "minimax")


def test_uncallable_model_is_refused():
    model = tiny_model_of("gpt2")
    model.transformer.wpe = None
    with pytest.raises(UserError, match="broken does not work as a causal language model"):
        Pieces(model, text=[5, 6, 7], name="broken")(torch.tensor([[5]]), None)


def test_cache_with_unknown_state_is_not_repeated():
    assert Held(torch.zeros(1, 2, dtype=torch.long)).repeats
    assert not Held(torch.zeros(1, 2, dtype=torch.long), [torch.zeros(1)]).repeats
