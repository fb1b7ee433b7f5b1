"""Held-out perplexity, in total and along the documents."""

import math

import pytest
import torch
from tiny_training import tiny_model, tiny_text

from nestling.data import byte_tokenizer, encode
from nestling.train import evaluate, held_out_batches
from nestling.train.evaluate import edges, select

SHAPE = {"batch_size": 3, "sequence_length": 32, "align": 16}


def alone(model, document):
    """The losses of one document read at once, by position."""
    ids = document.long()[None]
    logits = model(ids[:, :-1]).logits[0].double()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")


@pytest.mark.parametrize("name", ["transformer-tiny", "hope-attention-tiny", "hope-tiny"])
def test_batched_evaluation_equals_single_documents(name):
    model, text = tiny_model(name), tiny_text(9)
    bounds = text.bounds.tolist()
    with torch.no_grad():
        losses = [alone(model, text.ids[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
    found = evaluate(model, held_out_batches(text, **SHAPE), limit=64)
    assert found.tokens == text.num_targets == sum(map(len, losses))
    assert found.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    for bucket in found.by_position:
        last = bucket is found.by_position[-1]
        part = torch.cat([x[bucket.start : None if last else bucket.end] for x in losses])
        assert bucket.tokens == len(part)
        assert bucket.loss == pytest.approx(float(part.mean()), rel=1e-5)


def test_without_carry_long_documents_are_split():
    model, text = tiny_model("transformer-tiny", seed=3), tiny_text(9)
    torch.nn.init.normal_(model.lm_head.weight)
    carried = evaluate(model, held_out_batches(text, **SHAPE))
    cut = evaluate(model, held_out_batches(text, **SHAPE), carry=False)
    assert carried.tokens == cut.tokens and carried.loss != cut.loss


def test_evaluation_does_not_change_the_model():
    model = tiny_model().train()
    before = torch.get_rng_state()
    evaluate(model, held_out_batches(tiny_text(3), **SHAPE))
    assert model.training and torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_document_choice_is_fixed_and_large_enough():
    text = tiny_text(30)

    def tokens(**shape):
        batches = held_out_batches(text, **SHAPE | shape, max_tokens=500)
        kept = [batch.input_ids[batch.mask] for batch in batches]
        return sorted(torch.cat(kept).tolist())

    first = tokens()
    assert 500 <= len(first) < 500 + max(text.lengths())
    assert tokens(batch_size=5, sequence_length=64) == first


def test_select_takes_documents_in_the_given_order():
    text = encode(["ab", "c", "def"], byte_tokenizer())
    chosen = select(text, [2, 0])
    assert chosen.lengths() == [4, 3]
    assert chosen.ids.tolist() == [*text.ids[7:12].tolist(), *text.ids[:4].tolist()]
    assert len(select(text, [])) == 0


def test_no_tokens_give_nan():
    found = evaluate(tiny_model(), held_out_batches(select(tiny_text(3), []), **SHAPE))
    assert found.tokens == 0 and math.isnan(found.loss) and found.by_position == ()


def test_edges_reach_the_limit():
    for limit in (1, 16, 17, 1000):
        borders = edges(limit, first=16, ratio=1.5)
        assert borders[0] == 0 and borders[-1] >= limit
        assert all(a < b for a, b in zip(borders, borders[1:], strict=False))
