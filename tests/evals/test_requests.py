"""What a harness asks, answered from a fresh memory or from one that goes on."""

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
    """Log-probability of a continuation, all of it read at once."""
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        words = model(ids[:, :-1]).logits[0].log_softmax(-1)
    at = len(context) - 1
    return float(words[at:].gather(-1, ids[0, at + 1 :, None]).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_is_read_afresh(kind):
    found = reader(kind)
    scores = Memory(found).score(ASKS)
    for (score, _), ask in zip(scores, ASKS, strict=True):
        assert score == pytest.approx(alone(found.model, *ask), rel=1e-3)
    assert scores[0][0] == pytest.approx(scores[3][0], rel=1e-5)


@pytest.mark.parametrize("kind", ["hope-tiny", "transformer-tiny"])
def test_a_carried_memory_has_read_the_contexts_before_and_nothing_else(kind):
    found = reader(kind)
    scores = Memory(found, carry=True).score(ASKS)
    first, second, third = ASKS[0].context, ASKS[2].context, ASKS[3].context
    before = [first, first, first + second, first + second + third]
    for (score, _), ask, context in zip(scores, ASKS, before, strict=True):
        assert score == pytest.approx(alone(found.model, context, ask.continuation), rel=1e-3)


@pytest.mark.parametrize("kind", ["hope-tiny", "llama"])
@pytest.mark.parametrize("carry", [False, True])
def test_texts_and_writing_follow_the_same_rule(carry, kind):
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


def test_what_does_not_fit_is_cut_at_its_start_and_is_never_carried():
    found = Reader(sharpened(llama(positions=24)), byte_tokenizer(), name="small")
    context = tuple(range(40, 80))
    ((score, _),) = Memory(found).score([Ask(context, (9, 10, 11))])
    assert score == pytest.approx(alone(found.model, context[-22:], (9, 10, 11)), rel=1e-3)
    assert Memory(found).write(context, tokens=4, stops=()) == found.write(
        list(context[-20:]), tokens=4
    )
    with pytest.raises(UserError, match="do not fit"):
        Memory(found).write(context, tokens=24, stops=())
    with pytest.raises(UserError, match="leave out --carry"):
        Memory(found, carry=True)
