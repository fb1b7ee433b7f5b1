"""Masked positions anywhere in a row, packing, and recomputation."""

import pytest
import torch
from tolerances import assert_close

from nestling.core.memory import Flow
from nestling.models.backbone import valid_first


def padded(ids: torch.Tensor, length: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    fill = torch.full((ids.shape[0], length - ids.shape[1]), 5)
    ones = torch.ones_like(ids)
    parts = [(fill, torch.zeros_like(fill)), (ids, ones)]
    parts = parts if left else parts[::-1]
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


@pytest.mark.parametrize("left", [True, False])
def test_padded_equals_unpadded_in_output_and_memory(model, ids, left):
    alone = model(ids[:, :20], use_cache=True)
    row, mask = padded(ids[:, :20], 29, left)
    out = model(row, attention_mask=mask, use_cache=True)
    assert_close(out.logits[:, -20:] if left else out.logits[:, :20], alone.logits)
    assert out.past_key_values.tokens.tolist() == [20] * 3
    after = [model(ids[:, 20:], past_key_values=o.past_key_values).logits for o in (out, alone)]
    assert_close(*after)


def test_mixed_lengths_in_a_batch_equal_each_alone(model, ids):
    lengths, width = [37, 5, 18], 37
    rows, masks = zip(
        *(padded(ids[i : i + 1, :n], width, left=True) for i, n in enumerate(lengths)), strict=True
    )
    out = model(torch.cat(rows), attention_mask=torch.cat(masks))
    for i, n in enumerate(lengths):
        assert_close(out.logits[i : i + 1, -n:], model(ids[i : i + 1, :n]).logits)


def test_masked_positions_inside_a_document_are_skipped(model, ids):
    keep = torch.rand(3, 37, generator=torch.Generator().manual_seed(1)) < 0.7
    out = model(ids, attention_mask=keep.long())
    for row in range(3):
        alone = model(ids[row][keep[row]][None]).logits
        assert_close(out.logits[row][keep[row]][None], alone)


def test_packed_documents_equal_separate_ones(model, ids):
    """Padding at the end of a document, and before the first one of a row."""
    reset = torch.zeros(3, 37, dtype=torch.bool)
    mask = torch.ones(3, 37, dtype=torch.long)
    places = [(0, 0, 10), (0, 16, 37), (1, 4, 30), (1, 30, 37), (2, 0, 37)]
    for row, begin, _ in places:
        reset[row, begin] = True
    mask[0, 10:16] = 0
    mask[1, :4] = 0
    out = model(ids, attention_mask=mask, reset=reset)
    for row, begin, end in places:
        alone = model(ids[row : row + 1, begin:end]).logits
        assert_close(out.logits[row : row + 1, begin:end], alone)


def test_packed_loss_equals_the_mean_over_separate_documents(model, ids):
    reset = torch.zeros(3, 37, dtype=torch.bool)
    reset[:, [0, 13]] = True
    packed = model(ids, labels=ids, reset=reset).loss
    parts = [(model(p, labels=p).loss, p.shape[1] - 1) for p in (ids[:, :13], ids[:, 13:])]
    assert_close(packed, sum(loss * n for loss, n in parts) / sum(n for _, n in parts))


def test_valid_positions_come_first_in_each_document():
    mask = torch.tensor([[False, True, False, True, False, False, True]])
    reset = torch.tensor([[True, False, False, False, True, False, False]])
    assert valid_first(Flow(reset, mask)).tolist() == [[1, 3, 0, 2, 6, 4, 5]]


def test_recomputed_blocks_give_the_same_gradients(model, ids):
    gradients = []
    for recompute in (False, True):
        model.train()
        if recompute:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        assert_close(again, plain)
