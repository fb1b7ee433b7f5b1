"""The forms of a question: in the chat template of the model, if there is one, and plain."""

from typing import NamedTuple

from nestling.continual.study.body import Ids
from nestling.continual.text import Text

PLAIN = "Question: {question}\nAnswer:"
END = "\n"  # ends a plain answer


class Form(NamedTuple):
    """A form of questions, as token ids."""

    text: Text
    chat: bool
    opening: Ids = ()  # the start of every prompt

    def prompt(self, question: str) -> Ids:
        """Token ids of a question without the opening."""
        if self.chat:
            return tuple(self.text.prompt(question, chat=True))[len(self.opening) :]
        return begun(self.text, PLAIN.format(question=question))

    def answer(self, answer: str) -> Ids:
        """Token ids of an answer with its end."""
        if self.chat:
            return (*plain(self.text, answer), *self._turn_ends())
        return plain(self.text, f" {answer}{END}")

    def _turn_ends(self) -> Ids:
        end = self.text.tokenizer.eos_token_id
        return () if end is None else (int(end),)

    @property
    def stop(self) -> frozenset[int]:
        """Tokens that end an answer."""
        if self.chat:
            return frozenset(self._turn_ends())
        return frozenset((*plain(self.text, END), *self._turn_ends()))


def begun(text: Text, what: str) -> Ids:
    """Token ids of a text with the tokenizer's start tokens, but without an end token."""
    return tuple(text.prompt(what))


def plain(text: Text, what: str) -> Ids:
    """Token ids of a continuation, without special tokens."""
    return tuple(text.tokenizer(what, add_special_tokens=False, verbose=False)["input_ids"])


def forms(text: Text) -> tuple[Form, Form | None]:
    """The plain form, and that of the chat template if there is one."""
    first = Form(text, False)
    if not text.tokenizer.chat_template:
        return first, None
    two = [tuple(text.prompt(word, chat=True)) for word in ("Where is it?", "How many are there?")]
    same = 0
    while same < min(map(len, two)) and two[0][same] == two[1][same]:
        same += 1
    return first, Form(text, True, two[0][:same])
