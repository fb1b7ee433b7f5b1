"""transformers' generate with the model's cache."""

import pytest
import torch
from transformers import set_seed

from nestling.core.error import UserError

PROMPT = 11


def generated(model, ids, mask=None, **options):
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(ids, attention_mask=mask, **options)


def by_hand(model, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy decoding that rereads the whole text for every token."""
    for _ in range(count):
        ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    return ids


def test_greedy_matches_full_forward(model, ids):
    expected = by_hand(model, ids[:, :PROMPT], 9)
    assert torch.equal(generated(model, ids[:, :PROMPT]), expected)
    assert torch.equal(generated(model, ids[:, :PROMPT], use_cache=False), expected)
    assert len(expected[0, PROMPT:].unique()) > 2


def test_decoding_reads_only_the_new_token(hope, ids):
    lengths = []
    hope.backbone.blocks[0].register_forward_pre_hook(
        lambda module, args: lengths.append(args[0].shape[1])
    )
    generated(hope, ids[:, :PROMPT])
    assert lengths == [PROMPT] + [1] * 8


def test_sampling_through_the_cache_equals_sampling_without_it(model, ids):
    sampled = []
    for use_cache in (True, False):
        set_seed(5)
        options = {"do_sample": True, "top_k": 20, "temperature": 1.3, "use_cache": use_cache}
        sampled.append(generated(model, ids[:, :PROMPT], **options))
    assert torch.equal(*sampled)
    set_seed(6)
    assert not torch.equal(sampled[0], generated(model, ids[:, :PROMPT], do_sample=True))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beam_search_through_the_cache_equals_beam_search_without_it(model, ids, options):
    with_cache = generated(model, ids[:, :PROMPT], **options)
    assert torch.equal(with_cache, generated(model, ids[:, :PROMPT], use_cache=False, **options))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_left_padded_rows_of_mixed_length_equal_each_alone(model, ids, options):
    lengths, width = [PROMPT, 3, 7], PROMPT
    rows, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, n in enumerate(lengths):
        rows[row, -n:], mask[row, -n:] = ids[row, :n], 1
    together = generated(model, rows, mask, **options)
    for row, n in enumerate(lengths):
        alone = generated(model, ids[row : row + 1, :n], **options)
        assert torch.equal(together[row, width:], alone[0, n:])


def test_ended_row_is_padded_without_affecting_others(model, ids):
    free = generated(model, ids[:, :PROMPT])
    end = int(free[0, PROMPT + 2])
    stopped = generated(model, ids[:, :PROMPT], eos_token_id=end)
    for row in range(3):
        expected = free[row, PROMPT:].tolist()
        cut = expected.index(end) + 1 if end in expected else len(expected)
        found = stopped[row, PROMPT:].tolist()
        assert found[:cut] == expected[:cut]
        assert set(found[cut:]) <= {0}


def test_cache_from_generate_continues(model, ids):
    first = generated(model, ids[:, :PROMPT], return_dict_in_generate=True)
    cache = first.past_key_values
    assert cache.get_seq_length() == PROMPT + 8
    more = generated(model, first.sequences, past_key_values=cache, max_new_tokens=4)
    assert torch.equal(more, generated(model, ids[:, :PROMPT], max_new_tokens=13))


def test_assisted_generation_is_refused(model, ids):
    for draft in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        with pytest.raises(UserError, match="generate without"):
            generated(model, ids[:1, :PROMPT], **draft)


def test_chunked_prefill(model, ids):
    mask = torch.ones_like(ids[:, :PROMPT])
    mask[0, :6] = 0
    options = {"past_key_values": model.new_cache(), "prefill_chunk_size": 4}
    chunked = generated(model, ids[:, :PROMPT], mask, **options)
    assert torch.equal(chunked, generated(model, ids[:, :PROMPT], mask))
