"""Tasks: they make examples from a seed and score answers.

There are three forms: token ids with labels at some positions (``TokenTask``), texts with one
question each (``QuestionTask``), and texts to learn one after another (``StageTask``). A task
never sees a model: the caller asks the model and passes its answers to the task.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from statistics import fmean
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.data import SETS, load_corpus, load_set
from nestling.tasks.match import MATCHES, bits_per_byte
from nestling.tasks.protocol import Protocol

IGNORED = -100  # the label of a position that is not scored, as in torch's cross-entropy
UNSEEN = 2**40  # seeds from here on are for measuring, smaller ones for training
# how an answer is obtained from a model
Kind = Literal["positions", "generate", "choose", "perplexity"]
Answer = str | int | float  # generated text, index of a choice, or log-probability


class Examples(NamedTuple):
    """Token ids and the label of each position (``IGNORED`` if it has none)."""

    input_ids: Int[Tensor, "N T"]
    labels: Int[Tensor, "N T"]


class Question(NamedTuple):
    """A prompt and its right answers."""

    prompt: str  # read before the answer; ends without a space
    answers: tuple[str, ...]  # right answers; ``match`` says whether all or any of them count
    choices: tuple[str, ...] = ()  # to choose from (for generated text: the possible answers)
    joint: str = " "  # between the prompt and the answer

    @property
    def as_lesson(self) -> str:
        """The prompt with its right answer, as a text to learn from."""
        return self.prompt + self.joint + self.answers[0]


class Stage(NamedTuple):
    """Texts learned at the same time, and the questions about them from then on."""

    name: str
    learn: tuple[Question, ...]  # read with their answers, see ``Question.as_lesson``
    ask: tuple[Question, ...]  # never part of any ``learn``


def in_bytes(text: str) -> int:
    """The length of a text in UTF-8 bytes: tokens of the byte tokenizer."""
    return len(text.encode())


def generator(seed: int) -> torch.Generator:
    """A torch generator that uses all 64 bits of a seed; on a CPU torch itself uses 32."""
    return torch.Generator().manual_seed(seed ^ (seed >> 32) * 0x9E3779B1)


class Task(ABC):
    """Makes examples and judges answers; the same seed gives the same examples, to the byte."""

    kind: ClassVar[Kind]
    source: ClassVar[str]  # the paper or benchmark whose definition this follows
    made_of: ClassVar[str | None] = None  # a corpus or set of ``nestling data list``
    version: ClassVar[int] = 1  # increased whenever the examples of a seed change
    # fields of the configuration with the harder values for a sweep, one change at a time
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # whether ``score`` is computed over all examples together, and is not the mean of ``scores``
    pooled: ClassVar[bool] = False
    # how the source trains models on the task, if it does
    protocol: ClassVar[Protocol | None] = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the task; a task adds its own."""

    config: Any  # a ``Config`` of its class

    @property
    @abstractmethod
    def chance(self) -> float:
        """The expected score without reading the examples."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> "Task":
        """A minimal form of the task for tests; reads no file."""

    @classmethod
    def difficulties(cls) -> list[Any]:
        """The default configuration, then one configuration for each of ``changes``."""
        plain = cls.Config()
        pairs = [(field, value) for field, values in cls.changes.items() for value in values]
        return [plain, *(replace(plain, **{field: value}) for field, value in pairs)]


class TokenTask(Task):
    """Rows of token ids; an answer is a token at each position that has a label.

    For training seeds there may be labels at more positions than those scored.
    """

    kind = "positions"
    # "last": all answers are decoded from the output at the last position alone
    readout: ClassVar[Literal["each", "last"]] = "each"
    whole: ClassVar[bool] = False  # whether a row scores 1 only if all its positions are right

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of token ids in rows and labels."""

    @abstractmethod
    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows, drawn with their own generator."""

    @abstractmethod
    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The right answers, derived from the rows alone."""

    @abstractmethod
    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Blind answers, which score ``chance`` on average.

        Of ``labels`` only the shape is used, and which positions have one.
        """

    def scores(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> Float[Tensor, "N"]:
        """The share of right answers in each row; 1 or 0 if ``whole``.

        A row without labels scores NaN.
        """
        scored = labels != IGNORED
        right = ((answers == labels) & scored).sum(1).double()
        share = right / scored.sum(1)
        return torch.where(share.isnan(), share, (share == 1).double()) if self.whole else share

    def score(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
        """The share of right answers, or of right rows if ``whole``.

        A ``pooled`` task overrides this and reports it under ``beside``.
        """
        if self.whole:
            return self.scores(answers, labels).nanmean().item()
        return right_share(answers, labels)

    def beside(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> dict[str, float]:
        """Further figures: for a ``pooled`` task, the ``share`` of right positions."""
        return {"share": right_share(answers, labels)} if self.pooled else {}


def right_share(answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
    """The share of labelled positions whose answer equals the label."""
    scored = labels != IGNORED
    return (answers[scored] == labels[scored]).double().mean().item()


class TextTask(Task):
    """Texts with questions: their material, and how answers are cut and judged.

    ``material`` is the corpus or set of records the texts are made from (``None``: the one named
    by the class, read on first use). Lengths in a configuration are measured by ``count``: in
    bytes, unless the count of a tokenizer is given.
    """

    match: ClassVar[str] = "all"  # a name in ``match.MATCHES``, for generated answers
    new_tokens: ClassVar[int] = 32  # tokens to generate for an answer, at most
    stop: ClassVar[tuple[str, ...]] = ()  # an answer ends before the first of these

    def __init__(
        self,
        config: Any = None,
        *,
        material: Any = None,
        count: Callable[[str], int] = in_bytes,
    ):
        self.config = self.Config() if config is None else config
        self.given, self.count = material, count

    @cached_property
    def material(self) -> Any:
        """The given material, or the class's own. Raises UserError if it is not fetched yet."""
        if self.given is not None or self.made_of is None:
            return self.given
        return load_set(self.made_of) if self.made_of in SETS.names() else load_corpus(self.made_of)

    @property
    def tag(self) -> str | None:
        """Name and hash of the material; None if none has been used."""
        return self.__dict__["material"].tag if self.__dict__.get("material") else None

    @abstractmethod
    def blind(self, rng: Random, question: Question) -> Answer:
        """A random answer of the right form."""

    def rng(self, seed: int, index: int) -> Random:
        """The generator of one example; it depends only on task, seed and index."""
        return Random(f"{type(self).__name__}:{self.version}:{seed}:{index}")

    def scores(self, answers: Sequence[Answer], questions: Sequence[Question]) -> list[float]:
        """The score of each answer, in [0, 1].

        Generated text: ``match`` of the text, cut at ``stop``. Choice: 1 if the index is that of
        the right answer. Perplexity: 1 - (bits per byte) / 8, from the natural log-probability of
        ``answers[0]`` after the prompt; 0 for uniformly guessed bytes, 1 for certainty.
        """
        return [self._worth(a, q) for a, q in zip(answers, questions, strict=True)]

    def score(self, answers: Sequence[Answer], questions: Sequence[Question]) -> float:
        """The mean of ``scores``; a ``pooled`` task overrides this."""
        return fmean(self.scores(answers, questions))

    def beside(self, answers: Sequence[Answer], questions: Sequence[Question]) -> dict[str, float]:
        """Further figures: for a ``pooled`` task, the ``mean`` of ``scores``."""
        return {"mean": fmean(self.scores(answers, questions))} if self.pooled else {}

    def cut(self, text: str) -> str:
        """Cut a generated text before the first of ``stop``."""
        for end in self.stop:
            text = text.partition(end)[0]
        return text

    def oracle(self, questions: Sequence[Question]) -> list[Answer]:
        """The right answers."""
        return [self._right(question) for question in questions]

    def guess(self, seed: int, questions: Sequence[Question]) -> list[Answer]:
        """Blind answers, which score ``chance`` on average."""
        rng = Random(f"guess:{seed}")
        return [self.blind(rng, question) for question in questions]

    def _worth(self, answer: Answer, question: Question) -> float:
        if self.kind == "choose":
            return float(question.choices[int(answer)] == question.answers[0])
        if self.kind == "perplexity":
            return 1 - bits_per_byte(float(answer), question.answers[0]) / 8
        return MATCHES[self.match](self.cut(str(answer)), question.answers, question.choices)

    def _right(self, question: Question) -> Answer:
        if self.kind == "choose":
            return question.choices.index(question.answers[0])
        if self.kind == "perplexity":
            return 0.0
        return ", ".join(question.answers) if self.match == "all" else question.answers[0]


class QuestionTask(TextTask):
    """Independent examples, each a text with one question."""

    @abstractmethod
    def question(self, rng: Random, *, unseen: bool) -> Question:
        """Draw one example; ``unseen``: from material never trained on."""

    def stream(self, seed: int) -> Iterator[Question]:
        """Yield examples endlessly, made one at a time to save memory."""
        unseen = seed >= UNSEEN
        return (self.question(self.rng(seed, i), unseen=unseen) for i in itertools.count())

    def examples(self, seed: int, count: int) -> list[Question]:
        """The first ``count`` examples of a seed."""
        return list(itertools.islice(self.stream(seed), count))


class StageTask(TextTask):
    """Stages learned in order, each once; after each, all stages so far are asked about.

    The stages are learned by reading or by training. The questions after each stage give a table
    of scores, from which the final average and the forgetting follow. A question does not say
    which stage it belongs to.
    """

    # whether the choices are classes taught by the stages
    classes: ClassVar[bool] = False

    @abstractmethod
    def stages(self, seed: int) -> list[Stage]:
        """The stages in the order of learning; the seed decides order and samples."""

    def questions_up_to(self, stages: Sequence[Stage], last: int) -> list[tuple[Question, ...]]:
        """The questions of every stage up to ``last``, without choices not taught by then."""
        if not self.classes:
            return [stage.ask for stage in stages[: last + 1]]
        known = {lesson.answers[0] for stage in stages[: last + 1] for lesson in stage.learn}
        return [
            tuple(
                question._replace(choices=tuple(c for c in question.choices if c in known))
                for question in stage.ask
            )
            for stage in stages[: last + 1]
        ]
