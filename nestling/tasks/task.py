"""Tasks: examples from a seed, and the scoring of answers.

There are three forms: token ids with labels at some positions (``TokenTask``), texts with a
question each (``QuestionTask``), and texts to learn one after another (``StageTask``). Tasks never
see a model: the caller asks the model and passes the answers back.
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
UNSEEN = 2**40  # seeds from here on are for measuring, those below for training
# how an answer is got from a model
Kind = Literal["positions", "generate", "choose", "perplexity"]
Answer = str | int | float  # the text generated, the index of the choice, the log-probability


class Examples(NamedTuple):
    """Token ids and what is to be predicted at each position (``IGNORED``: nothing)."""

    input_ids: Int[Tensor, "N T"]
    labels: Int[Tensor, "N T"]


class Question(NamedTuple):
    """A text to read and what should follow it."""

    prompt: str  # read before the answer; ends without a blank
    answers: tuple[str, ...]  # what is right; ``Task.match`` says whether all or any of them
    choices: tuple[str, ...] = ()  # to choose from (or, generated, what counts as an answer)
    joint: str = " "  # between the prompt and what follows

    @property
    def as_lesson(self) -> str:
        """Prompt and right answer, as a text to learn from."""
        return self.prompt + self.joint + self.answers[0]


class Stage(NamedTuple):
    """What is learned at one time, and what is asked about it from then on."""

    name: str
    learn: tuple[Question, ...]  # with answers that may be read: ``Question.as_lesson``
    ask: tuple[Question, ...]  # never among those of any ``learn``


def in_bytes(text: str) -> int:
    """The length of a text in bytes of UTF-8: tokens of the byte tokenizer."""
    return len(text.encode())


def generator(seed: int) -> torch.Generator:
    """A torch generator; torch's own seeding on a CPU knows the lower 32 bits alone."""
    return torch.Generator().manual_seed(seed ^ (seed >> 32) * 0x9E3779B1)


class Task(ABC):
    """Makes examples and judges answers; the same seed gives the same examples, to the byte."""

    kind: ClassVar[Kind]
    source: ClassVar[str]  # the paper or benchmark whose definition this follows
    made_of: ClassVar[str | None] = None  # a corpus or set of ``nestling data list``
    version: ClassVar[int] = 1  # raised whenever the same seed would give something else
    # fields of the configuration and the harder values that a sweep gives each, one at a time
    changes: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # ``score`` is counted over all examples together, as the source does: no mean of ``scores``
    pooled: ClassVar[bool] = False
    # how the source trains its models on it, where it does
    protocol: ClassVar[Protocol | None] = None

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the task; a task adds its own."""

    config: Any  # a ``Config`` of its class

    @property
    @abstractmethod
    def chance(self) -> float:
        """Expected score of one who has not read the examples."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> "Task":
        """The smallest form that still is the task; reads no file."""

    @classmethod
    def difficulties(cls) -> list[Any]:
        """The configuration without arguments, then each of ``changes`` made to it alone."""
        plain = cls.Config()
        pairs = [(field, value) for field, values in cls.changes.items() for value in values]
        return [plain, *(replace(plain, **{field: value}) for field, value in pairs)]


class TokenTask(Task):
    """Rows of token ids; the answers are tokens, one for each position that has a label.

    Labels of training seeds may say more than what is scored: all that a model may learn from.
    """

    kind = "positions"
    # "last": all answers are decoded from what a model gives at the last position alone
    readout: ClassVar[Literal["each", "last"]] = "each"
    whole: ClassVar[bool] = False  # a row scores 1 or 0: all its positions right, or not

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids that occur, in rows and in labels."""

    @abstractmethod
    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows drawn with a generator of their own."""

    @abstractmethod
    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The right answers, found by reading the rows as a person would."""

    @abstractmethod
    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Answers of one who knows the form of the task and has read nothing: score ``chance``.

        Of ``labels`` only the shape is looked at, and which positions have one.
        """

    def scores(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> Float[Tensor, "N"]:
        """Of each row the share of its scored positions that are right; all or none if ``whole``.

        A row without a scored position has no score: NaN.
        """
        scored = labels != IGNORED
        right = ((answers == labels) & scored).sum(1).double()
        share = right / scored.sum(1)
        return torch.where(share.isnan(), share, (share == 1).double()) if self.whole else share

    def score(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
        """Share of the scored positions, or of the rows if ``whole``, that are right.

        A task that is ``pooled`` counts otherwise, and has this as a figure beside.
        """
        if self.whole:
            return self.scores(answers, labels).nanmean().item()
        return right_share(answers, labels)

    def beside(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> dict[str, float]:
        """Figures beside ``score``: of a task that is ``pooled`` the ``share`` of positions."""
        return {"share": right_share(answers, labels)} if self.pooled else {}


def right_share(answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
    """Share of the positions with a label whose answer is the label."""
    scored = labels != IGNORED
    return (answers[scored] == labels[scored]).double().mean().item()


class TextTask(Task):
    """Texts with questions: how an answer is judged, its limits, and what the texts are made of.

    ``material`` is a corpus or a set of records to make them of (``None``: the one that the class
    names, read when it is first needed). Lengths in a configuration are counted by ``count``:
    bytes, unless the count of a tokenizer is given.
    """

    match: ClassVar[str] = "all"  # a name in ``nestling/tasks/match.py:MATCHES``; to generate only
    new_tokens: ClassVar[int] = 32  # most tokens to generate for an answer
    stop: ClassVar[tuple[str, ...]] = ()  # an answer ends where one of these begins

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
        """What was given, or the data of the class: UserError where that has to be fetched."""
        if self.given is not None or self.made_of is None:
            return self.given
        return load_set(self.made_of) if self.made_of in SETS.names() else load_corpus(self.made_of)

    @property
    def tag(self) -> str | None:
        """Name and hash of the material; None if none has been needed."""
        return self.__dict__["material"].tag if self.__dict__.get("material") else None

    @abstractmethod
    def blind(self, rng: Random, question: Question) -> Answer:
        """An answer of one who knows the form of the task and has read nothing."""

    def rng(self, seed: int, index: int) -> Random:
        """The generator of one example, which depends on nothing but task, seed and index."""
        return Random(f"{type(self).__name__}:{self.version}:{seed}:{index}")

    def scores(self, answers: Sequence[Answer], questions: Sequence[Question]) -> list[float]:
        """What each answer is worth, in [0, 1].

        To generate: ``match`` of the text, cut at ``stop``. To choose: whether the index is that
        of the answer. Perplexity: 1 - (bits a byte) / 8, from the natural log-probability of
        ``answers[0]`` after the prompt; 0 is the uniform guess of bytes, 1 is certainty.
        """
        return [self._worth(a, q) for a, q in zip(answers, questions, strict=True)]

    def score(self, answers: Sequence[Answer], questions: Sequence[Question]) -> float:
        """The mean of ``scores``; a task that is ``pooled`` counts otherwise."""
        return fmean(self.scores(answers, questions))

    def beside(self, answers: Sequence[Answer], questions: Sequence[Question]) -> dict[str, float]:
        """Figures beside ``score``: of a task that is ``pooled`` the ``mean`` of ``scores``."""
        return {"mean": fmean(self.scores(answers, questions))} if self.pooled else {}

    def cut(self, text: str) -> str:
        """A generated text up to the first of ``stop``."""
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
    """Examples that have nothing to do with each other, each a text with its question."""

    @abstractmethod
    def question(self, rng: Random, *, unseen: bool) -> Question:
        """One example, drawn with ``rng``; ``unseen``: of material never trained on."""

    def stream(self, seed: int) -> Iterator[Question]:
        """Endless examples, made one at a time: long texts need not be there together."""
        unseen = seed >= UNSEEN
        return (self.question(self.rng(seed, i), unseen=unseen) for i in itertools.count())

    def examples(self, seed: int, count: int) -> list[Question]:
        """The first ``count`` examples of a seed."""
        return list(itertools.islice(self.stream(seed), count))


class StageTask(TextTask):
    """What is learned stage after stage, without return; all stages so far are asked about.

    The stages are learned in order (by reading or by training), and after each one the questions of
    all stages so far are asked: a table of scores, which gives the final average and the
    forgetting. A question does not say which stage it belongs to.
    """

    # the choices are classes that the stages teach
    classes: ClassVar[bool] = False

    @abstractmethod
    def stages(self, seed: int) -> list[Stage]:
        """The stages in the order of learning; the seed decides on order and samples."""

    def questions_up_to(self, stages: Sequence[Stage], last: int) -> list[tuple[Question, ...]]:
        """The questions of every stage up to ``last``; classes not taught by then are left out."""
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
