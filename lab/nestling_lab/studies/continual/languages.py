"""Two languages, verse by verse: Spanish, and a cipher that no model can know."""

import string
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from nestling.data import Pair
from nestling.tasks.task import Question
from nestling_lab.studies.continual.asking import Asked, encode_question
from nestling_lab.studies.continual.base import encoded

BLOCK, PARTS = 20, 8  # verses of a document; one document in PARTS is for the test
CHOICES = 4
LONGEST = 120  # tokens of a prompt


def _letters() -> dict[int, str]:
    """A substitution cipher that maps vowels to vowels and consonants to consonants."""
    rng, table = Random("invented"), {}
    for group in ("aeiou", "".join(sorted(set(string.ascii_lowercase) - set("aeiou")))):
        other = "".join(rng.sample(group, len(group)))
        table |= str.maketrans(group + group.upper(), other + other.upper())
    return {key: chr(value) for key, value in table.items()}


LETTERS = _letters()


def invented(english: str) -> str:
    """Encipher English.

    >>> len({invented(letter) for letter in "abcdefghijklmnopqrstuvwxyz"})
    26
    """
    return english.translate(LETTERS)


LANGUAGES = {
    "spanish": lambda pair: pair.text,
    "invented": lambda pair: invented(pair.english),
}


class Lessons(NamedTuple):
    """The lessons in one language, as token ids; the verses are the same in every language."""

    read: list[list[int]]
    validation: list[list[int]]
    test: list[list[int]]
    cloze: list[Asked]


def lessons(
    tokenizer: Any, language: str, verses: Sequence[Pair], sizes: Any, seed: int
) -> Lessons:
    """Training documents in an order given by the seed; the test text is always the same."""
    told = [LANGUAGES[language](pair) for pair in verses]
    blocks = [told[i : i + BLOCK] for i in range(0, len(told), BLOCK)]
    parts: list[list[list[str]]] = [[], [], []]
    for number, block in enumerate(blocks):
        parts[min(number % PARTS, 2)].append(block)
    test, validation, read = parts
    for part in (test, validation):
        Random(0).shuffle(part)
    Random(seed).shuffle(read)
    documents = [["\n".join(block) for block in part] for part in (read, validation, test)]
    score = {"tokens": sizes["test_tokens"], "longest": sizes["test_longest"]}
    return Lessons(
        encoded(tokenizer, documents[0], sizes["tokens"], sizes["longest"]),
        encoded(tokenizer, documents[1], **score),
        encoded(tokenizer, documents[2], **score),
        cloze(tokenizer, [verse for block in test for verse in block], sizes["cloze"]),
    )


def cloze(tokenizer: Any, verses: Sequence[str], count: int) -> list[Asked]:
    """Questions for the last word of a verse, among the last words of others; at most ``count``."""
    rng, found = Random(0), []
    cut = [verse.rstrip(" .,;:!?").rpartition(" ") for verse in verses]
    words = sorted({word for _, _, word in cut})
    for before, _, word in cut:
        others = rng.sample([other for other in words if other != word], CHOICES - 1)
        choices = rng.sample([word, *others], CHOICES)
        one = encode_question(tokenizer, Question(before, (word,), tuple(choices)))
        if len(before.split()) > 2 and len(one.prompt) <= LONGEST:
            found.append(one)
        if len(found) == count:
            break
    return found
