"""Recall in words: the entries of a form, scattered in prose, are asked for by heading."""

from dataclasses import dataclass
from functools import cached_property
from random import Random

from nestling.core.error import UserError
from nestling.tasks.haystack import PROSE, Haystack, fitted, insert
from nestling.tasks.task import Answer, Question, QuestionTask
from nestling.tasks.words import ADJECTIVES, NOUNS, made_prose

HEADINGS = (
    "Applicant", "Product name", "Product code", "Purpose of submission", "Type of test",
    "Reference device", "Place of manufacture", "Contact person", "Date of receipt", "Batch",
    "Storage", "Packaging", "Colour", "Material", "Supplier", "Warranty", "Reviewer", "Panel",
)  # fmt: skip


class Forms(QuestionTask):
    """Made-up entries "heading: value" in prose; given a heading, continue with its value.

    This is information extraction as text completion: the prompt ends with a heading that occurs
    in the text with its value. A reply is right if it contains the value.

    Deviates: the published data (SWDE, FDA) are web pages and documents of real devices.
    """

    kind = "generate"
    match = "all"
    made_of = PROSE
    source = "arXiv 2512.24695, Table 3 (SWDE, FDA as in Arora et al. 2024, arXiv 2402.18668)"
    new_tokens = 48
    stop = ("\n",)
    changes = {"length": (512, 1024)}

    @dataclass(frozen=True, kw_only=True)
    class Config(QuestionTask.Config):
        """Sizes of the task."""

        length: int = 2048  # of the prompt, in units of ``count``
        entries: int = 8  # entries of the form

        def __post_init__(self) -> None:
            if self.length < 1 or not 0 < self.entries <= len(HEADINGS):
                raise UserError(
                    f"length is {self.length}, entries {self.entries}; give length >= 1 and "
                    f"entries from 1 to {len(HEADINGS)}"
                )

    @classmethod
    def tiny(cls) -> "Forms":
        """A kilobyte of generated prose."""
        return cls(cls.Config(length=1000), material=made_prose())

    @property
    def chance(self) -> float:
        """The probability of guessing both words of a value."""
        return 1 / (len(ADJECTIVES) * len(NOUNS))

    def blind(self, rng: Random, question: Question) -> Answer:
        """A random value."""
        return value(rng)

    @cached_property
    def prose(self) -> Haystack:
        """The source of the other sentences."""
        return Haystack(lambda: self.material)

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A form scattered in prose, with one of its headings repeated at the end."""
        told = {heading: value(rng) for heading in rng.sample(HEADINGS, self.config.entries)}
        entries = [f"{heading}: {found}." for heading, found in told.items()]
        places = [rng.random() for _ in entries]
        asked = rng.choice(list(told))

        def prompt(others: list[str]) -> str:
            return "\n".join([*insert(entries, others, places), "", f"{asked}:"])

        others = self.prose.read(rng, unseen=unseen)
        return Question(fitted(prompt, others, self.config.length, self.count), (told[asked],))


def value(rng: Random) -> str:
    """Draw a value: two words."""
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
