"""Text written after a prompt."""

import pytest
from ending import ending_tokenizer
from tiny_training import tiny_model

from nestling.train.inference import continue_text


@pytest.mark.parametrize("begins", [False, True])
def test_an_end_that_the_tokenizer_appends_is_not_read_before_writing(begins):
    tokenizer = ending_tokenizer(begins=begins)
    _, cache = continue_text(tiny_model("hope-tiny"), tokenizer, "Who?", tokens=1, temperature=0)
    assert cache.tokens.tolist() == [len("Who?") + begins + 1]
