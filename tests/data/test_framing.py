"""What a tokenizer puts around a text, and the start of one that goes on."""

import pytest
from ending import ending_tokenizer
from transformers import ByT5Tokenizer

from nestling.data import byte_tokenizer, frame, prompt_ids

TOKENIZERS = {
    "ours": (byte_tokenizer(), [0], []),
    "ending": (ending_tokenizer(), [], [0]),
    "both": (ending_tokenizer(begins=True), [1], [0]),
    "slow": (ByT5Tokenizer(extra_ids=0), [], [1]),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_special_token_is_on_its_side(name):
    tokenizer, before, after = TOKENIZERS[name]
    assert frame(tokenizer) == (before, after)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["", "a", "Who reads on?"])
def test_a_prompt_is_never_ended(name, text):
    tokenizer, before, after = TOKENIZERS[name]
    whole, prompt = tokenizer(text)["input_ids"], prompt_ids(tokenizer, text)
    assert prompt + after == whole and prompt[: len(before)] == before
