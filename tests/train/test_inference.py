"""Text written after a prompt."""

import pytest
from ending import ending_tokenizer
from tiny_training import tiny_model

from nestling.train.inference import continue_text


@pytest.mark.parametrize("begins", [False, True])
def test_end_token_appended_by_tokenizer_is_dropped_from_prompt(begins):
    tokenizer = ending_tokenizer(begins=begins)
    _, cache = continue_text(tiny_model("hope-tiny"), tokenizer, "Who?", tokens=1, temperature=0)
    assert cache.tokens.tolist() == [len("Who?") + begins + 1]
