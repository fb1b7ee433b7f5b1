"""Needles in a haystack: recall what one sentence said, far back in a long text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar, Literal
from uuid import UUID

from nestling.core.error import UserError
from nestling.tasks.haystack import PROSE, Haystack, fitted, insert
from nestling.tasks.task import Answer, Question, QuestionTask
from nestling.tasks.words import ADJECTIVES, NOUNS, made_prose

Form = Literal["words", "numbers", "uuids"]
# the wording of RULER (Hsieh et al. 2024, Apache-2.0), so that scores are comparable
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = 40  # possible places of needles in prose, equally spaced from start to end
NEEDLE = "One of the special magic {what} for {key} is: {value}."
MANY = (
    "Some special magic {what} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {what} afterwards.\n{context}\nWhat are all the special magic "
    "{what} for {asked} mentioned in the provided text? The special magic {what} for {asked} "
    "mentioned in the provided text are"
)
ONE = (
    "A special magic {what} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {what} afterwards.\n{context}\nWhat is the special magic "
    "{what} for {asked} mentioned in the provided text? The special magic {what} for {asked} "
    "mentioned in the provided text is"
)


def draw(rng: Random, form: Form) -> str:
    """Draw a key or value: two words, seven digits, or a UUID."""
    if form == "words":
        return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
    if form == "numbers":
        return str(rng.randrange(10**6, 10**7))
    return str(UUID(int=rng.getrandbits(128), version=4))


class Niah(QuestionTask):
    """Sentences that give keys their values, hidden in a text of a given length.

    The text of ``length`` (prompt and room for the answer) is real prose, one passage repeated, or
    other needles. In prose a needle is at one of 40 equally spaced depths, elsewhere between any
    two lines. The score is the share of the values that occur in the generated answer.

    Deviates from RULER: the prose is a corpus, read from a random sentence on, instead of essays
    read from their start; sentences are not cut at the end; the key words are our own; every text
    is as long as ``length`` allows, by sentences rather than in steps of 500 words.
    """

    kind = "generate"
    match = "all"
    source = "RULER, arXiv 2404.06654"
    changes = {"length": (8192, 16_384)}
    new_tokens = 128
    haystack: ClassVar[Literal["prose", "noise", "needles"]]
    key_form: ClassVar[Form] = "words"
    value_form: ClassVar[Form] = "numbers"
    keys: ClassVar[int] = 1  # keys of needles in prose or noise
    values: ClassVar[int] = 1  # values per key
    queries: ClassVar[int] = 1  # keys asked for

    @dataclass(frozen=True, kw_only=True)
    class Config(QuestionTask.Config):
        """The length of the text."""

        length: int = 4096  # of prompt and answer, in units of ``count``
        answer_room: int = 128  # part of the length reserved for the answer

        def __post_init__(self) -> None:
            if not 0 <= self.answer_room < self.length:
                raise UserError(
                    f"answer_room is {self.answer_room}; give at least 0 and less than the length, "
                    f"{self.length}"
                )

    @classmethod
    def tiny(cls) -> "Niah":
        """A kilobyte of generated prose."""
        return cls(cls.Config(length=1500, answer_room=0), material=made_prose())

    @property
    def chance(self) -> float:
        """The expected share of values guessed right, with as many guesses as values."""
        return {"words": 1 / (len(ADJECTIVES) * len(NOUNS)), "numbers": 1 / 9e6, "uuids": 2**-122}[
            self.value_form
        ]

    def blind(self, rng: Random, question: Question) -> Answer:
        """As many random values as are asked for."""
        return ", ".join(draw(rng, self.value_form) for _ in question.answers)

    @cached_property
    def prose(self) -> Haystack:
        """The source of the sentences."""
        return Haystack(lambda: self.material)

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A text with needles and a question at its end."""
        told: dict[str, list[str]] = {}
        while len(told) < self.keys:
            told[draw(rng, self.key_form)] = [
                draw(rng, self.value_form) for _ in range(self.values)
            ]
        asked = rng.sample(sorted(told), self.queries)
        needles = [self.needle(key, value) for key, found in told.items() for value in found]
        rng.shuffle(needles)
        answers = tuple(value for key in asked for value in told[key])
        places = self.places(rng, len(needles))

        def prompt(others: list[str]) -> str:
            return self.prompt(self.join(insert(needles, others, places)), asked)

        others = self.others(rng, set(told), unseen)
        limit = self.config.length - self.config.answer_room
        return Question(fitted(prompt, others, limit, self.count), answers)

    def others(self, rng: Random, taken: set[str], unseen: bool) -> Iterator[str]:
        """Yield the parts of the haystack, endlessly."""
        if self.haystack == "prose":
            yield from self.prose.read(rng, unseen=unseen)
        while self.haystack == "noise":
            yield NOISE
        while True:
            key = draw(rng, self.key_form)
            if key not in taken:
                yield self.needle(key, draw(rng, self.value_form))

    def places(self, rng: Random, count: int) -> list[float]:
        """Draw the places of the needles, as shares of the text."""
        if self.haystack == "prose":
            return [depth / (DEPTHS - 1) for depth in rng.sample(range(DEPTHS), count)]
        return [rng.random() for _ in range(count)]

    @property
    def what(self) -> str:
        """The word for the values in the text, singular if one is asked for."""
        return self.value_form if self.queries * self.values > 1 else self.value_form[:-1]

    def needle(self, key: str, value: str) -> str:
        """The sentence that gives a key its value."""
        return NEEDLE.format(what=self.value_form, key=key, value=value)

    def prompt(self, context: str, asked: Sequence[str]) -> str:
        """The instruction, the text, and the question after it."""
        names = ", and ".join(filter(None, [", ".join(asked[:-1]), asked[-1]]))
        form = MANY if self.queries * self.values > 1 else ONE
        return form.format(what=self.what, context=context, asked=names)

    def join(self, parts: Sequence[str]) -> str:
        """Join prose with spaces, noise and needles with line ends."""
        return (" " if self.haystack == "prose" else "\n").join(parts)


class Niah1(Niah):
    """S-NIAH-1 (easy): a seven-digit pass key in one endlessly repeated passage."""

    haystack = "noise"


class Niah2(Niah):
    """S-NIAH-2 (medium): a seven-digit number in real prose."""

    haystack = "prose"
    made_of = PROSE


class Niah3(Niah):
    """S-NIAH-3 (hard): a UUID in real prose."""

    haystack = "prose"
    made_of = PROSE
    value_form = "uuids"


class MultiKey(Niah):
    """MK-NIAH-1: four keys in real prose, one of them asked for."""

    haystack = "prose"
    made_of = PROSE
    keys = 4


class MultiKeyLines(Niah):
    """MK-NIAH-2: one needle in a text that consists entirely of needles."""

    haystack = "needles"


class MultiKeyUuids(Niah):
    """MK-NIAH-3: like MK-NIAH-2, with UUIDs as keys and values."""

    haystack = "needles"
    key_form = value_form = "uuids"


class MultiQuery(Niah):
    """MQ-NIAH: four keys in real prose, all asked for."""

    haystack = "prose"
    made_of = PROSE
    keys = queries = 4


class MultiValue(Niah):
    """MV-NIAH: one key with four values in real prose, all asked for."""

    haystack = "prose"
    made_of = PROSE
    values = 4
