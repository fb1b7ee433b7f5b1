"""Apply a tokenizer's chat template safely: no turn can end itself or begin another."""

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from nestling.core.error import UserError

Turn = tuple[str, str]  # role, text


def chat_tokens(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """The token ids of a conversation up to the next answer.

    Special tokens spelt out in a turn are treated as text. If the template refuses the turns, as
    some do for two turns of the same role in a row, raises UserError.
    """
    spelt = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    every = "".join(text for _, text in turns)
    unused = (sign for sign in map(chr, range(0xE000, 0xF900)) if sign not in every)
    marked = {next(unused): text for _, text in turns if any(token in text for token in spelt)}
    marks = {text: mark for mark, text in marked.items()}
    shown = [{"role": role, "content": marks.get(text, text)} for role, text in turns]
    try:
        whole = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        raise UserError(f"the model's chat template refuses these messages: {error}") from error
    if not marked:
        return _ids(tokenizer, whole, False)
    parts = re.split(f"([{''.join(marked)}])", whole)
    return [
        i for part in parts for i in _ids(tokenizer, marked.get(part, part), split=part in marked)
    ]


def _ids(tokenizer: Any, text: str, split: bool) -> list[int]:
    if not text:
        return []
    options = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
    return list(tokenizer(text, **options)["input_ids"])
