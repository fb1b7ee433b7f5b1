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
HELD = 4  # one English sentence in HELD is a question, in every language


class Translation(StageTask):
    """Languages learned one after another from pairs of sentences; translate into English.

    A stage is a language; the seed decides the order of languages and the sentences. No English
    sentence that is asked for is learned in any language. For one language alone (the first setup
    of the published figure), run its stage alone. The score is corpus-level chrF, as published;
    the mean over sentences is reported beside it.

    Deviates: other languages, since the published ones (Kalamang with its grammar book, Manchu)
    are not available.
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

        lessons: int = 200  # pairs to learn from, per language
        questions: int = 50  # sentences to translate, per language
        longest: int = 200  # characters of a sentence; longer ones are left out

        def __post_init__(self) -> None:
            if min(self.lessons, self.questions, self.longest) < 1:
                raise UserError("all sizes of translation tasks must be at least 1")

    @property
    def chance(self) -> float:
        """0, for an empty reply; an unrelated sentence gets about 0.2."""
        return 0.0

    def blind(self, rng: Random, question: Question) -> Answer:
        """An empty reply."""
        return ""

    def score(self, answers: Sequence[Answer], questions: Sequence[Question]) -> float:
        """Corpus-level chrF."""
        texts = [self.cut(str(answer)) for answer in answers]
        return chrf_of_all(texts, [question.answers for question in questions])

    @abstractmethod
    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """For each language, more pairs of sentences than needed."""

    @abstractmethod
    def glossary(self, language: str) -> list[Pair]:
        """Words to learn before the sentences."""

    def stages(self, seed: int) -> list[Stage]:
        """One language per stage. Raises UserError if there are too few pairs."""
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
                    "ask about; give smaller lessons and questions, or a larger longest"
                )
            learn = rng.sample(list(parts[0].values()), config.lessons)
            ask = rng.sample(list(parts[1].values()), config.questions)
            words = self.glossary(language)
            stages.append(Stage(language, as_questions([*words, *learn]), as_questions(ask)))
        return stages


def is_held_out(english: str) -> bool:
    """Whether an English sentence is a question, and so never learned."""
    return zlib.crc32(english.lower().encode()) % HELD == 0


def as_questions(pairs: Sequence[Pair]) -> tuple[Question, ...]:
    """Turn pairs into questions for their English."""
    return tuple(Question(PROMPT.format(text=pair.text), (pair.english,)) for pair in pairs)


class Invented(Translation):
    """Two invented languages with glossaries; no model can know them beforehand."""

    @classmethod
    def tiny(cls) -> "Invented":
        """A dozen sentences per language."""
        return cls(cls.Config(lessons=12, questions=6))

    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """Random sentences."""
        count = 6 * (self.config.lessons + self.config.questions) + 60
        languages = map(Language, ("first", "second"))
        return {one.name: [one.sentence(rng) for _ in range(count)] for one in languages}

    def glossary(self, language: str) -> list[Pair]:
        """All words of the language."""
        return list(Language(language).glossary())


class Recorded(Translation):
    """The languages of a recorded set of pairs."""

    @classmethod
    def tiny(cls) -> "Recorded":
        """Two languages of generated pairs."""
        rng = Random("pairs")
        languages = [Language("third"), Language("fourth")]
        rows = [language.sentence(rng) for language in languages for _ in range(80)]
        material = Records(name="made", rows=rows, sha256="0" * 64, licence="Apache-2.0")
        return cls(cls.Config(lessons=12, questions=6), material=material)

    def pairs(self, rng: Random) -> dict[str, Sequence[Pair]]:
        """All pairs of the set."""
        rows: list[Pair] = self.material.rows
        names = dict.fromkeys(pair.language for pair in rows)
        return {name: [pair for pair in rows if pair.language == name] for name in names}

    def glossary(self, language: str) -> list[Pair]:
        """Empty: the set has no glossary."""
        return []


class Campaign(Recorded):
    """Latin, Scottish Gaelic and Esperanto, from the dialogue of a game."""

    made_of = "campaign"


class Synopses(Recorded):
    """Italian and Danish, from the first lines of Debian's package descriptions."""

    made_of = "synopses"


class Verses(Recorded):
    """Spanish alone, from the Bible verse by verse."""

    made_of = "verses"
