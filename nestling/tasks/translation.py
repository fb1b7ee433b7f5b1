"""Continual translation: languages are learned one after another, then all are translated."""

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from nestling.core.error import UserError
from nestling.data import Pair, Records
from nestling.tasks.invented import Language
from nestling.tasks.match import chrf_of_all
from nestling.tasks.task import Answer, Question, Stage, StageTask

PROMPT = "Text: {text}\nEnglish:"
HELD = 4  # one in HELD English sentences is asked for, in every language


class Translation(StageTask):
    """One language after another, out of pairs of sentences; asked is for the English.

    A stage is a language; the seed decides on the order of languages and on the sentences. No
    English sentence that is asked for is ever learned, in any language. Each language alone (the
    first setup of the published figure) is a run of its stage alone. Scored by chrF of all
    sentences together, as published; the mean over sentences stands beside it.

    Deviates: the published languages (Kalamang with its grammar book, Manchu) are not at hand.
    """

    kind = "generate"
    match = "chrf"
    pooled = True
    source = "arXiv 2512.24695, Figure 8 (continual translation of novel languages)"
    new_tokens = 96
    stop = ("\n",)

    @dataclass(frozen=True, kw_only=True)
    class Config(StageTask.Config):
        """Sizes of the task."""

        lessons: int = 200  # pairs to learn from, of each language
        questions: int = 50  # sentences to translate, of each language
        longest: int = 200  # characters of a sentence; longer ones are left out

        def __post_init__(self) -> None:
            if min(self.lessons, self.questions, self.longest) < 1:
                raise UserError("all sizes of translation tasks must be at least 1")

    @property
    def chance(self) -> float:
        """Nothing said; a sentence about something else gets about 0.2."""
        return 0.0

    def blind(self, rng: Random, question: Question) -> Answer:
        """Nothing."""
        return ""

    def score(self, answers: Sequence[Answer], questions: Sequence[Question]) -> float:
        """chrF of all texts together."""
        texts = [self.cut(str(answer)) for answer in answers]
        return chrf_of_all(texts, [question.answers for question in questions])

    @abstractmethod
    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """Of each language more pairs of sentences than are needed."""

    @abstractmethod
    def glossary(self, language: str) -> list[Pair]:
        """Words to learn before the sentences."""

    def stages(self, seed: int) -> list[Stage]:
        """A language in each."""
        config, rng = self.config, self.rng(seed, 0)
        found = list(self.pairs(rng).items())
        rng.shuffle(found)
        stages = []
        for language, pairs in found:
            parts: tuple[dict[str, Pair], dict[str, Pair]] = ({}, {})
            for pair in pairs:
                if max(len(pair.text), len(pair.english)) <= config.longest:
                    parts[is_held_out(pair.english)].setdefault(pair.text, pair)
            if len(parts[0]) < config.lessons or len(parts[1]) < config.questions:
                raise UserError(
                    f"{language} has {len(parts[0])} pairs to learn from and {len(parts[1])} to "
                    "ask about; take fewer, or longer ones"
                )
            learn = rng.sample(list(parts[0].values()), config.lessons)
            ask = rng.sample(list(parts[1].values()), config.questions)
            words = self.glossary(language)
            stages.append(Stage(language, as_questions([*words, *learn]), as_questions(ask)))
        return stages


def is_held_out(english: str) -> bool:
    """Whether an English sentence is asked for and never learned."""
    return zlib.crc32(english.lower().encode()) % HELD == 0


def as_questions(pairs: Sequence[Pair]) -> tuple[Question, ...]:
    """Pairs as questions for their English."""
    return tuple(Question(PROMPT.format(text=pair.text), (pair.english,)) for pair in pairs)


class Invented(Translation):
    """Two invented languages, each with a list of its words; nobody can know them beforehand."""

    @classmethod
    def tiny(cls) -> "Invented":
        """A dozen sentences."""
        return cls(cls.Config(lessons=12, questions=6))

    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """Drawn sentences."""
        count = 6 * (self.config.lessons + self.config.questions) + 60
        languages = map(Language, ("first", "second"))
        return {one.name: [one.sentence(rng) for _ in range(count)] for one in languages}

    def glossary(self, language: str) -> list[Pair]:
        """All words."""
        return list(Language(language).glossary())


class Recorded(Translation):
    """Languages of a set of pairs."""

    @classmethod
    def tiny(cls) -> "Recorded":
        """Two languages of made pairs."""
        rng = Random("pairs")
        languages = [Language("third"), Language("fourth")]
        rows = [language.sentence(rng) for language in languages for _ in range(80)]
        material = Records(name="made", rows=rows, sha256="0" * 64, licence="Apache-2.0")
        return cls(cls.Config(lessons=12, questions=6), material=material)

    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """All of the set."""
        rows: list[Pair] = self.material.rows
        names = dict.fromkeys(pair.language for pair in rows)
        return {name: [pair for pair in rows if pair.language == name] for name in names}

    def glossary(self, language: str) -> list[Pair]:
        """None."""
        return []


class Campaign(Recorded):
    """Latin, Scottish Gaelic and Esperanto, from the dialogue of a game."""

    made_of = "campaign"


class Synopses(Recorded):
    """Italian and Danish, from first lines of Debian's descriptions."""

    made_of = "synopses"


class Verses(Recorded):
    """Spanish alone, from the Bible verse by verse."""

    made_of = "verses"
