"""With a tokenizer that appends an end token: documents get one, prompts do not."""

from ending import ending_tokenizer

from nestling.continual.text import Text
from nestling.data import byte_tokenizer


def test_end_token_follows_documents_not_prompts():
    text = Text(ending_tokenizer(begins=True))
    document, prompt = text.encode("Who?"), text.prompt("Who?")
    assert document[0] == prompt[0] == 1 and document[-1] == 0
    assert prompt == document[:-1]


def test_special_tokens_in_documents_are_plain_text():
    spelt = "It ends with <|endoftext|> and <|pad|>."
    for tokenizer, around in ((byte_tokenizer(), [0]), (ending_tokenizer(begins=True), [1, 0])):
        text = Text(tokenizer)
        ids = text.encode(spelt)
        assert [i for i in ids if i < 2] == around
        assert text.decode(ids) == spelt
        # the tokenizer is unchanged: prompts still accept control tokens
        assert text.prompt("<|endoftext|>")[-1] == 0
