"""What a tokenizer puts around a text, so that a text that is to go on is not ended first."""

from typing import Any, NamedTuple

PROBES = ("a", "0", ".")  # texts that some tokenizer might have no token for, but not for all


class Frame(NamedTuple):
    """The special tokens that a tokenizer puts before a text and after it."""

    before: list[int]
    after: list[int]


def frame(tokenizer: Any) -> Frame:
    """The special tokens around a text; those around an empty one do not say on which side.

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
    """Token ids of a text that is to go on: what stands before one, and no end after it.

    Special tokens spelt out in the text are taken as the tokenizer takes them.
    """
    inside = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*frame(tokenizer).before, *inside]
