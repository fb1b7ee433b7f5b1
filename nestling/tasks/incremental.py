"""Class-incremental classification: every stage teaches new classes, without replay."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from nestling.core.error import UserError
from nestling.data import Labelled, Records
from nestling.tasks.task import Answer, Question, Stage, StageTask
from nestling.tasks.words import ADJECTIVES, NOUNS

PROMPT = "Text: {text}\nClass:"
HELD = 4  # one text in HELD is a question, if the set has no split of its own


def cut(text: str, longest: int) -> str:
    """Cut a text to at most ``longest`` characters, between words.

    >>> cut("a river runs", 8)
    'a river'
    """
    return text if len(text) <= longest else text[: longest + 1].rpartition(" ")[0]


class Incremental(StageTask):
    """Labelled texts in stages of new classes, without replay and without a task id.

    The seed decides the classes, their order and their texts. The choices of a question are all
    classes of the run; ``questions_up_to`` leaves out those not taught yet. Questions are about
    texts that are never learned: by the split of the set, or one text in four by its hash.

    Deviates: the paper does not state the number of examples per class or their format.
    """

    kind = "choose"
    classes = True
    source = "Momeni et al. 2025, arXiv 2412.15563 (class-incremental, no replay, no task id)"

    @dataclass(frozen=True, kw_only=True)
    class Config(StageTask.Config):
        """Sizes of the task."""

        stages: int = 5  # number of stages
        classes: int = 10  # new classes per stage
        lessons: int = 10  # texts to learn from, per class
        questions: int = 5  # texts to ask about, per class
        longest: int = 300  # characters of a text; the rest is cut off

        def __post_init__(self) -> None:
            if min(self.stages, self.classes, self.lessons, self.questions, self.longest) < 1:
                raise UserError("all sizes of class-incremental tasks must be at least 1")
            if self.stages * self.classes < 2:
                raise UserError("stages and classes are both 1; give at least two classes in all")

    @classmethod
    def tiny(cls) -> "Incremental":
        """Three stages of two generated classes."""
        config = cls.Config(stages=3, classes=2, lessons=4, questions=3)
        return cls(config, material=made_labels())

    @property
    def chance(self) -> float:
        """1 / (number of classes in the run)."""
        return 1 / (self.config.stages * self.config.classes)

    def blind(self, rng: Random, question: Question) -> Answer:
        """The index of a random class."""
        return rng.randrange(len(question.choices))

    def stages(self, seed: int) -> list[Stage]:
        """Stages of new classes. Raises UserError if the set has too few texts."""
        config, rng = self.config, self.rng(seed, 0)
        pools = {
            label: pool
            for label, pool in self.pools().items()
            if len(pool[0]) >= config.lessons and len(pool[1]) >= config.questions
        }
        if len(pools) < config.stages * config.classes:
            raise UserError(
                f"only {len(pools)} classes have {config.lessons} texts to learn from and "
                f"{config.questions} to ask about; take fewer stages, classes or texts"
            )
        labels = rng.sample(sorted(pools), config.stages * config.classes)
        choices = tuple(sorted(labels))

        def draw(group: list[str], part: int, count: int) -> tuple[Question, ...]:
            texts = [(text, one) for one in group for text in rng.sample(pools[one][part], count)]
            rng.shuffle(texts)
            return tuple(Question(PROMPT.format(text=t), (one,), choices) for t, one in texts)

        groups = [labels[i :: config.stages] for i in range(config.stages)]
        return [
            Stage(f"stage {i + 1}", draw(g, 0, config.lessons), draw(g, 1, config.questions))
            for i, g in enumerate(groups)
        ]

    def pools(self) -> dict[str, tuple[list[str], list[str]]]:
        """For each class the texts to learn from and those to ask about, without repeats."""
        found: dict[str, tuple[list[str], list[str]]] = {}
        rows: Iterable[Labelled] = self.material.rows
        seen = set()
        for text, label, part in rows:
            text = cut(text, self.config.longest)
            if text in seen:
                continue
            seen.add(text)
            ask = part == "ask" if part else _held(text)
            found.setdefault(label, ([], []))[ask].append(text)
        return found


def _held(text: str) -> bool:
    """Whether a text is asked about, not taught."""
    return zlib.crc32(text.encode()) % HELD == 0


def made_labels(classes: int = 6, each: int = 30) -> Records:
    """Generate labelled texts; every class has its own words, and at least 3 texts to ask about."""
    rng = Random("labels")
    nouns = rng.sample(NOUNS, 5 * classes)
    rows = []
    for label, begin in zip(rng.sample(ADJECTIVES, classes), range(0, len(nouns), 5), strict=True):
        texts: list[str] = []
        while len(texts) < each or sum(map(_held, set(texts))) < 3:
            told = " and ".join(rng.sample(nouns[begin : begin + 5], 3))
            texts.append(f"{rng.choice(ADJECTIVES)} {told}")
        rows += [Labelled(text, label) for text in texts]
    return Records(name="made", rows=rows, sha256="0" * 64, licence="Apache-2.0")


class Intents(Incremental):
    """Smart-home commands in stages of new intents (drawn from templates of Home Assistant)."""

    made_of = "intents"


class Sections(Incremental):
    """Descriptions of Debian packages in stages of new sections."""

    made_of = "sections"

    @dataclass(frozen=True, kw_only=True)
    class Config(Incremental.Config):
        """Sizes of the task."""

        classes: int = 8  # new classes per stage


class Clinc150(Incremental):
    """CLINC150: ten stages of fifteen new intents, as many as there are domains."""

    made_of = "clinc150"

    @dataclass(frozen=True, kw_only=True)
    class Config(Incremental.Config):
        """Sizes of the task."""

        stages: int = 10  # number of stages
        classes: int = 15  # new classes per stage


class Banking77(Incremental):
    """Banking77: seven stages of eleven new intents."""

    made_of = "banking77"

    @dataclass(frozen=True, kw_only=True)
    class Config(Incremental.Config):
        """Sizes of the task."""

        stages: int = 7  # number of stages
        classes: int = 11  # new classes per stage


class Dbpedia(Incremental):
    """DBpedia: seven stages of ten new second-level classes."""

    made_of = "dbpedia"

    @dataclass(frozen=True, kw_only=True)
    class Config(Incremental.Config):
        """Sizes of the task."""

        stages: int = 7  # number of stages
