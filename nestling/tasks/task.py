"""What a task is: examples from a seed, and a judgement of answers."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

IGNORED = -100  # the label of a position that is not scored, as in torch's cross-entropy


class Examples(NamedTuple):
    """Token ids and what is to be predicted at each position (``IGNORED``: nothing)."""

    input_ids: Int[Tensor, "N T"]
    labels: Int[Tensor, "N T"]


class Task(ABC):
    """Makes examples and scores answers; the same seed gives the same examples, to the bit."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of token ids that occur."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Expected score of one who has not read the examples."""

    @abstractmethod
    def examples(self, seed: int, count: int) -> Examples:
        """``count`` examples drawn with a generator of their own."""

    @abstractmethod
    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The right answers, found by reading the examples as a person would."""

    def score(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
        """Fraction of the scored positions that are answered rightly."""
        scored = labels != IGNORED
        return (answers[scored] == labels[scored]).double().mean().item()
