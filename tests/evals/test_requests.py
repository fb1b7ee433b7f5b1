"""Requests of a harness, answered from a fresh or a carried memory."""

import pytest
import torch
from readers import KINDS, ids_of, llama, reader, sharpened

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.requests import Ask, Memory

ASKS = [
    Ask((0, 70, 71, 72), (73, 74)),
    Ask((0, 70, 71, 72), (75,)),
    Ask((0, 80, 81), (82, 83, 84)),
    Ask((0, 70, 71, 72), (73, 74)),
]


def alone(model, context, continuation):
    """Log-probability of a continuation, read at once."""
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        words = model(ids[:, :-1]).logits[0].log_softmax(-1)
    at = len(context) - 1
    return float(words[at:].gather(-1, ids[0, at + 1 :, None]).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_starts_fresh(kind):
    found = reader(kind)
    scores = Memory(found).score(ASKS)
    for (score, _), ask in zip(scores, ASKS, strict=True):
        assert score == pytest.approx(alone(found.model, *ask), rel=1e-3)
    assert scores[0][0] == pytest.approx(scores[3][0], rel=1e-5)


@pytest.mark.parametrize("kind", ["hope-tiny", "transformer-tiny"])
def test_carried_memory_holds_earlier_contexts_only(kind):
    found = reader(kind)
    scores = Memory(found, carry=True).score(ASKS)
    first, second, third = ASKS[0].context, ASKS[2].context, ASKS[3].context
    before = [first, first, first + second, first + second + third]
    for (score, _), ask, context in zip(scores, ASKS, before, strict=True):
        assert score == pytest.approx(alone(found.model, context, ask.continuation), rel=1e-3)


@pytest.mark.parametrize("kind", ["hope-tiny", "llama"])
@pytest.mark.parametrize("carry", [False, True])
def test_rolling_and_generation_carry_the_same_way(carry, kind):
    found, text = reader(kind), "a text of its own"
    found.horizon = None  # as of a model without positions
    memory = Memory(found, carry=carry)
    ids = tuple(found.start + found.encode(text))
    assert memory.score_text(text) == pytest.approx(alone(found.model, ids[:1], ids[1:]), rel=1e-3)
    before = ids if carry else ()
    wanted = found.write([*before, *ids_of(found)], tokens=5)
    assert memory.write(ids_of(found), tokens=5, stops=()) == wanted
    before = (*before, *ids_of(found)) if carry else ()
    wanted = alone(found.model, (*before, *ids[:1]), ids[1:])
    assert memory.score_text(text) == pytest.approx(wanted, rel=1e-3)


def test_over_long_context_is_truncated_left_and_not_carried():
    found = Reader(sharpened(llama(positions=24)), byte_tokenizer(), name="small")
    context = tuple(range(40, 80))
    ((score, _),) = Memory(found).score([Ask(context, (9, 10, 11))])
    assert score == pytest.approx(alone(found.model, context[-22:], (9, 10, 11)), rel=1e-3)
    assert Memory(found).write(context, tokens=4, stops=()) == found.write(
        list(context[-20:]), tokens=4
    )
    with pytest.raises(UserError, match="are too many"):
        Memory(found).write(context, tokens=24, stops=())
    with pytest.raises(UserError, match="leave out --carry"):
        Memory(found, carry=True)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_requests_equal_single_ones(kind):
    found = reader(kind)
    asks = [*ASKS, Ask((0,), (70,)), Ask((0, 9), ()), Ask(tuple(ids_of(found)), (5, 6))]
    alone, beside = Memory(found).score(asks), Memory(found, batch=3).score(asks)
    assert [sure for _, sure in beside] == [sure for _, sure in alone]
    assert [x for x, _ in beside] == pytest.approx([x for x, _ in alone], rel=1e-4, abs=1e-6)
    contexts = [ids_of(found, text) for text in ("a", "so many words", "two", "and the last one")]
    options = {"tokens": 5, "stops": ("e",)}
    texts = Memory(found, batch=3).write_all(contexts, **options)
    assert texts == [found.write(ids, **options) for ids in contexts] and found.pads


def test_batching_and_carrying_are_exclusive():
    with pytest.raises(UserError, match="1 with --carry"):
        Memory(reader("hope-tiny"), carry=True, batch=2)
    with pytest.raises(UserError, match="at least 1"):
        Memory(reader("hope-tiny"), batch=0)


@pytest.mark.parametrize("carry", [False, True])
def test_empty_text_has_zero_loss(carry):
    assert Memory(reader("hope-tiny"), carry=carry).score_text("") == 0.0


def test_empty_stop_string_ends_after_one_token():
    found = reader("llama")
    ids = ids_of(found)
    assert found.write(ids, tokens=9, stops=("",)) == found.write(ids, tokens=1)


@pytest.mark.parametrize("kind", ["hope-tiny", "llama"])
def test_generation_options_are_used(kind):
    found = reader(kind)
    memory, ids = Memory(found), ids_of(found)

    def drawn(seed, **options):
        torch.manual_seed(seed)
        return memory.write(ids, tokens=12, stops=(), do_sample=True, **options)

    assert drawn(0, temperature=5.0) == drawn(0, temperature=5.0) != drawn(1, temperature=5.0)
    assert drawn(0, temperature=5.0, top_k=1) == memory.write(ids, tokens=12, stops=())
    assert memory.write(ids, tokens=3, stops=(), num_beams=2)
    _, cache = found.read(torch.tensor([ids]))
    with pytest.raises(UserError, match="num_beams=1"):
        found.write([7], tokens=3, cache=cache, num_beams=2)
