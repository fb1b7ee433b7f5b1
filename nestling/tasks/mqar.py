"""Multi-query associative recall, as defined in Zoology."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.task import IGNORED, Examples, TokenTask, generator


class Mqar(TokenTask):
    """Multi-query associative recall (MQAR): pairs, then their keys among random tokens.

    ::

        input   k3 a  k1 c  x  x  k1 x  x  x  k3 x
        label   - -   - -   -  -  c  -  -  -  a  -

    No key or value occurs twice among the pairs. Each key is queried once, at a gap after the
    pairs that is drawn without replacement from the power law ``gap ** (power - 1)``, so mostly
    soon.
    """

    source = "Zoology, arXiv 2312.04927 (multi-query associative recall)"
    # the paper increases lengths and pairs together; here each is varied alone
    changes = {"length": (128, 256, 512, 1024), "pairs": (8, 16)}

    @dataclass(frozen=True, kw_only=True)
    class Config(TokenTask.Config):
        """Sizes of the task; the lower half of the tokens, except the first, are keys."""

        vocab_size: int = 8192  # tokens
        length: int = 64  # tokens of a row
        pairs: int = 4  # pairs in a row, and queries
        power: float = 0.01  # of the distribution of gaps; 1 is uniform
        train_examples: int = 100_000  # rows to train on

        def __post_init__(self) -> None:
            if self.pairs < 1 or self.length % 2 or 4 * self.pairs > self.length:
                raise UserError(
                    f"length is {self.length}, pairs {self.pairs}; give at least 1 pair, and an "
                    "even length of at least 4 tokens per pair"
                )
            if self.pairs >= self.vocab_size // 2:
                raise UserError(
                    f"vocab_size is {self.vocab_size}, pairs {self.pairs}; give at least "
                    f"{2 * self.pairs + 2} tokens"
                )

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @classmethod
    def tiny(cls) -> "Mqar":
        """Three pairs."""
        return cls(cls.Config(vocab_size=20, length=24, pairs=3))

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""
        return self.config.vocab_size

    @property
    def chance(self) -> float:
        """1 / (number of values)."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows, each with its own mapping."""
        rng, pairs, half = generator(seed), self.config.pairs, self.vocab_size // 2
        keys = 1 + torch.rand(count, half - 1, generator=rng).topk(pairs, 1).indices
        values = (
            half + torch.rand(count, self.vocab_size - half, generator=rng).topk(pairs, 1).indices
        )
        rest = self.config.length - 2 * pairs
        law = torch.arange(1, rest // 2 + 1, dtype=torch.double) ** (self.config.power - 1)
        gaps = torch.multinomial(law.expand(count, -1), pairs, generator=rng)
        after = torch.randint(self.vocab_size, (count, rest), generator=rng)
        after.scatter_(1, 2 * gaps, keys)
        labels = torch.full((count, self.config.length), IGNORED)
        labels.scatter_(1, 2 * pairs + 2 * gaps, values)
        return Examples(torch.cat([torch.stack([keys, values], 2).flatten(1), after], 1), labels)

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The value of every key; elsewhere 0."""
        answers = torch.zeros_like(input_ids)
        for row, answer in zip(input_ids.tolist(), answers, strict=True):
            told = dict(zip(row[: 2 * self.config.pairs : 2], row[1::2], strict=False))
            answer[:] = torch.tensor([told.get(token, 0) for token in row])
        return answers

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random values."""
        half = self.vocab_size // 2
        return torch.randint(half, self.vocab_size, labels.shape, generator=generator(seed))
