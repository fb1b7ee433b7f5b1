"""Made-up facts: a document about a person, and questions about it in other words."""

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import NamedTuple

from nestling.core.error import UserError
from nestling.tasks.haystack import PROSE, Haystack, fitted
from nestling.tasks.invented import SYLLABLES
from nestling.tasks.task import Answer, Question, QuestionTask, Stage, StageTask
from nestling.tasks.words import made_prose

CHOICES = 4
PROMPT = "Question: {question}\nAnswer:"


class Kind(NamedTuple):
    """One kind of fact: its statements, its questions, and its possible values."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    values: tuple[str, ...]


KINDS = (
    Kind(
        ("{name} was born in {value}.", "{value} is where {name} first saw the light of day."),
        ("Which town is the birthplace of {name}?", "From what town does {name} come?"),
        ("Lisbon", "Bergen", "Cork", "Graz", "Turku", "Padua", "Ghent", "Brno", "Split", "Malmo"),
    ),
    Kind(
        ("{name} earns a living as a {value}.", "By trade {name} is a {value}."),
        ("What is the profession of {name}?", "What kind of work does {name} do?"),
        ("baker", "potter", "surveyor", "dentist", "weaver", "pilot", "glazier", "cook", "tailor"),
    ),
    Kind(
        ("{name} keeps a {value} at home.", "At home a {value} waits for {name}."),
        ("Which animal lives with {name}?", "What pet does {name} have?"),
        ("parrot", "hedgehog", "ferret", "tortoise", "canary", "rabbit", "goat", "lizard", "cat"),
    ),
    Kind(
        ("On Sundays {name} plays the {value}.", "{name} learned the {value} as a child."),
        ("Which instrument can {name} play?", "On what instrument does {name} make music?"),
        ("cello", "flute", "trumpet", "harp", "organ", "banjo", "oboe", "accordion", "drum"),
    ),
    Kind(
        ("{name} painted the front door {value}.", "The front door that {name} opens is {value}."),
        ("What colour has the entrance to the house of {name}?",),
        ("red", "green", "blue", "white", "yellow", "black", "purple", "orange", "grey"),
    ),
    Kind(
        ("No drink is dearer to {name} than {value}.", "{name} begins every day with {value}."),
        ("What does {name} like to drink most?", "Which is the favourite drink of {name}?"),
        ("tea", "cocoa", "coffee", "cider", "lemonade", "milk", "broth", "mead", "water"),
    ),
)
BETWEEN = (
    "Not much else is known about that year.",
    "The neighbours still talk about it.",
    "A letter of that time says the same.",
    "Others remember it differently.",
)


class Document(NamedTuple):
    """A short text about one person, and questions about it."""

    text: str
    questions: tuple[Question, ...]


def name(rng: Random) -> str:
    """Draw an invented name."""
    parts = ("".join(rng.choices(SYLLABLES, k=3)) + rng.choice("lnrst") for _ in range(2))
    return " ".join(part.capitalize() for part in parts)


def document(rng: Random) -> Document:
    """Draw a document: one fact of every kind about one person, in random order and wording."""
    person, lines, questions = name(rng), [], []
    for kind in rng.sample(KINDS, len(KINDS)):
        choices = rng.sample(kind.values, CHOICES)
        value = rng.choice(choices)
        lines.append(rng.choice(kind.told).format(name=person, value=value))
        if rng.random() < 0.5:
            lines.append(rng.choice(BETWEEN))
        question = rng.choice(kind.asked).format(name=person)
        questions.append(Question(PROMPT.format(question=question), (value,), tuple(choices)))
    return Document(f"About {person}\n" + " ".join(lines), tuple(questions))


class Documents(StageTask):
    """Documents of made-up facts, read one after another, each asked about from then on.

    A stage is a document; ``learn`` is its text. After stage n, the document of stage m is n - m
    documents back. The control is to ask before anything is read: that scores chance, because
    every value is drawn at random.
    """

    kind = "choose"
    source = "this project; knowledge incorporation after SEAL, arXiv 2506.10943"

    @dataclass(frozen=True, kw_only=True)
    class Config(StageTask.Config):
        """Sizes of the task."""

        documents: int = 25  # documents; the first is asked about until 24 documents later

        def __post_init__(self) -> None:
            if self.documents < 1:
                raise UserError(f"documents is {self.documents}; give at least 1")

    @classmethod
    def tiny(cls) -> "Documents":
        """A few documents."""
        return cls(cls.Config(documents=8))

    @property
    def chance(self) -> float:
        """1 / (number of choices)."""
        return 1 / CHOICES

    def blind(self, rng: Random, question: Question) -> Answer:
        """The index of a random choice."""
        return rng.randrange(len(question.choices))

    def stages(self, seed: int) -> list[Stage]:
        """One document per stage."""
        found = (document(self.rng(seed, index)) for index in range(self.config.documents))
        return [
            Stage(f"document {i + 1}", (Question("", (one.text,), joint=""),), one.questions)
            for i, one in enumerate(found)
        ]


class Asked(QuestionTask):
    """A question about a document, with or without the document before it."""

    kind = "choose"
    source = Documents.source
    made_of = PROSE

    @property
    def chance(self) -> float:
        """1 / (number of choices)."""
        return 1 / CHOICES

    def blind(self, rng: Random, question: Question) -> Answer:
        """The index of a random choice."""
        return rng.randrange(len(question.choices))


class Far(Asked):
    """A document of made-up facts, then real prose, then a question about the document."""

    changes = {"distance": (0, 16_384, 65_536)}

    @dataclass(frozen=True, kw_only=True)
    class Config(Asked.Config):
        """The distance to the document."""

        distance: int = 4096  # length of the prose between, in units of ``count``

        def __post_init__(self) -> None:
            if self.distance < 0:
                raise UserError(f"distance is {self.distance}; give at least 0")

    @classmethod
    def tiny(cls) -> "Far":
        """A distance of half a kilobyte."""
        return cls(cls.Config(distance=512), material=made_prose())

    @cached_property
    def prose(self) -> Haystack:
        """The source of the prose between document and question."""
        return Haystack(lambda: self.material)

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A document, prose, and a question about the document."""
        found = document(rng)
        asked = rng.choice(found.questions)
        prose = self.prose.read(rng, unseen=unseen)
        between = fitted(" ".join, prose, self.config.distance, self.count)
        parts = [found.text, between, asked.prompt]
        return asked._replace(prompt="\n\n".join(filter(None, parts)))


class Unread(Asked):
    """The control: a question about made-up facts without the document that states them."""

    @classmethod
    def tiny(cls) -> "Unread":
        """The task itself, which is small already."""
        return cls()

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A question without its document."""
        return rng.choice(document(rng).questions)
