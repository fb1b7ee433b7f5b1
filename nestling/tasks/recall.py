"""In-context recall: which value was each key paired with, a while ago?"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.task import IGNORED, Examples, TokenTask, generator


class Recall(TokenTask):
    """Key-value pairs occur once each, then every key is asked for once, in another order.

    ::

        input    k3 a  k1 c  ...  k2 b   .  .  ...  .   k1 c  k2 b  ...  k3
        label     - -   - -        - -   -  -       -    c -   b -        a
                 the pairs, each once    the wait       the questions

    Keys are tokens ``0 .. keys-1``, values ``keys .. keys+values-1``, the wait is the last token.
    Values are drawn independently, with replacement, in every sequence. Only the pair itself tells
    the answer, not even earlier answers do, so a model without memory scores ``1 / values``
    exactly. From the value of a pair to its question there are at least ``2 * period`` tokens: a
    memory written every ``period`` tokens has been written by then, and a short attention window
    does not reach back. The wait is the shortest that guarantees this.
    """

    source = "this project"

    @dataclass(frozen=True, kw_only=True)
    class Config(TokenTask.Config):
        """Sizes of the task."""

        keys: int = 16  # number of keys; every sequence pairs and asks for all of them
        values: int = 16  # number of values
        period: int = 16  # tokens between two writes of the memories under test

        def __post_init__(self) -> None:
            for name in ("keys", "values", "period"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} is {getattr(self, name)}; give at least 1")

    def __init__(self, config: Config | None = None):
        self.config = config or Recall.Config()

    @classmethod
    def tiny(cls) -> "Recall":
        """A few keys and values."""
        return cls(cls.Config(keys=8, values=8, period=2))

    @property
    def vocab_size(self) -> int:
        """The number of keys and values, plus the token of the wait."""
        return self.config.keys + self.config.values + 1

    @property
    def chance(self) -> float:
        """1 / (number of values)."""
        return 1.0 / self.config.values

    @property
    def wait(self) -> int:
        """The number of tokens between the last pair and the first question."""
        return 2 * self.config.period - 1

    @property
    def length(self) -> int:
        """The number of tokens in a sequence; the last answer is predicted, not part of it."""
        return 4 * self.config.keys + self.wait - 1

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` sequences, each with its own mapping and orders."""
        rng = generator(seed)
        keys, values = self.config.keys, self.config.values
        mapping = torch.randint(keys, keys + values, (count, keys), generator=rng)
        written = torch.rand(count, keys, generator=rng).argsort(1)
        asked = torch.rand(count, keys, generator=rng).argsort(1)
        wait = torch.full((count, self.wait), self.vocab_size - 1)
        answers = mapping.gather(1, asked)
        pairs = torch.stack([written, mapping.gather(1, written)], 2).flatten(1)
        questions = torch.stack([asked, answers], 2).flatten(1)
        input_ids = torch.cat([pairs, wait, questions], 1)[:, :-1]
        labels = torch.full_like(input_ids, IGNORED)
        labels[:, 2 * keys + self.wait :: 2] = answers
        return Examples(input_ids, labels)

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """For every key, the value that followed it in its pair; elsewhere 0."""
        pairs, questions = input_ids[:, : 2 * self.config.keys], input_ids.clone()
        written, values = pairs[:, 0::2], pairs[:, 1::2]
        mapping = torch.zeros_like(values).scatter(1, written, values)
        is_key = questions < self.config.keys
        return torch.where(is_key, mapping.gather(1, questions * is_key), 0)

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random values."""
        keys, values = self.config.keys, self.config.values
        rng = generator(seed)
        return torch.randint(keys, keys + values, labels.shape, generator=rng)
