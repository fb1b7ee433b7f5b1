"""Encode text to token ids and back, with the tokenizer of a model."""

from typing import Any

from nestling.core.error import UserError
from nestling.data import chat_ids, prompt_ids


def _utf8(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError("the text is not UTF-8; pass it in UTF-8") from error
    return text


class Text:
    """Wraps the tokenizer of a model; if there is none, every use raises UserError."""

    def __init__(self, tokenizer: Any | None):
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        if self._tokenizer is None:
            raise UserError("this model has no tokenizer; put its tokenizer files into the folder")
        return self._tokenizer

    def encode(self, text: str) -> list[int]:
        """The token ids of a document, with the special tokens that its tokenizer adds.

        Special tokens spelt out in the text are treated as text: mentioning an end token does not
        end a document.
        """
        found = self.tokenizer(_utf8(text), split_special_tokens=True, verbose=False)
        return list(found["input_ids"])

    def prompt(self, text: str, chat: bool = False) -> list[int]:
        """The token ids of a prompt; with ``chat``, as a user's message in the chat template."""
        if not text:
            raise UserError("the prompt is empty; give at least one character to continue")
        if not chat:
            return prompt_ids(self.tokenizer, _utf8(text))
        if not self.tokenizer.chat_template:
            raise UserError("the model's tokenizer has no chat template; leave out chat")
        return chat_ids(self.tokenizer, _utf8(text))

    def decode(self, ids: Any) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def first_token(self, config: Any) -> int:
        """The token that starts a document when nothing else is known; ``config`` is a model's."""
        given = [config.bos_token_id, config.eos_token_id]
        if self._tokenizer is not None:
            given = [self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, *given]
        return next((token for token in given if isinstance(token, int)), 0)
