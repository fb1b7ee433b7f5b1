"""The special tokens a tokenizer puts around a text, so that prompts get no end token."""

from typing import Any, NamedTuple

PROBES = ("a", "0", ".")  # a tokenizer may lack a token for one of these, hardly for all


class Frame(NamedTuple):
    """The special tokens that a tokenizer puts before and after a text."""

    before: list[int]
    after: list[int]


def frame(tokenizer: Any) -> Frame:
    """Find the special tokens around a text, by encoding probes.

    An empty text would not tell which tokens go before and which after.

    >>> from nestling.data import byte_tokenizer
    >>> frame(byte_tokenizer())
    Frame(before=[0], after=[])
    """
    for text in PROBES:
        inside = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        whole = tokenizer(text, verbose=False)["input_ids"]
        for at in range(len(whole) - len(inside) + 1):
            if inside and whole[at : at + len(inside)] == inside:
                return Frame(list(whole[:at]), list(whole[at + len(inside) :]))
    return Frame(list(tokenizer("", verbose=False)["input_ids"]), [])


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt: the special tokens before a text, but none after it.

    Special tokens spelt out in the text are encoded as the tokenizer does by default.
    """
    inside = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*frame(tokenizer).before, *inside]


def chat_ids(tokenizer: Any, message: str) -> list[int]:
    """Token ids of a user's message in the chat template, up to where the answer begins.

    Special tokens spelt out in the message are ordinary text, so a message cannot end its turn.
    """
    spelt = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    mark = message
    if any(token in message for token in spelt):
        private = map(chr, range(0xE000, 0xF900))
        mark = next(sign for sign in private if sign not in message)
    turns = [{"role": "user", "content": mark}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def ids(text: str, *, plain: bool) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": plain}
        return list(tokenizer(text, verbose=False, **options)["input_ids"])

    if mark is message:
        return ids(whole, plain=False)
    first, *rest = whole.split(mark)
    inside = ids(message, plain=True)
    return ids(first, plain=False) + [i for part in rest for i in inside + ids(part, plain=False)]
