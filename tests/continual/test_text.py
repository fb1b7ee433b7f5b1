"""Text of a tokenizer that ends every text: a document ends, a prompt goes on."""

from ending import ending_tokenizer

from nestling.continual.text import Text


def test_a_prompt_is_not_ended_and_a_document_is():
    text = Text(ending_tokenizer(begins=True))
    document, prompt = text.encode("Who?"), text.prompt("Who?")
    assert document[0] == prompt[0] == 1 and document[-1] == 0
    assert prompt == document[:-1]
