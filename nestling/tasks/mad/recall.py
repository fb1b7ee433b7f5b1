"""MAD's in-context recall, plain and with noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.mad.base import FEWER, Mad
from nestling.tasks.task import IGNORED, UNSEEN, Examples, generator

LONGER = (256, 512, 1024)


class Pairs(Mad):
    """Pairs of a key and its value; keys recur within a row.

    ::

        input   k3 a k1 c k3 a  ...  k1
        label   -  - -  - a  -       c

    A row is ``length`` / 2 pairs without the last value. The labels are the values of all repeated
    keys (the published "multi-query"); for training seeds every next token is a label.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; half of the tokens that are not noise are keys."""

        noise_vocab_size: int = 0  # of the tokens, those used only for noise
        noise: float = 0.0  # share of the pairs that are noise

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.length % 2 or not 0 <= self.noise < 1:
                raise UserError(
                    f"length is {self.length}, noise {self.noise}; give an even length and "
                    "0 <= noise < 1"
                )
            if (
                self.vocab_size - self.noise_vocab_size < 4
                or self.noise
                and not self.noise_vocab_size
            ):
                raise UserError(
                    f"vocab_size is {self.vocab_size}, noise_vocab_size {self.noise_vocab_size}; "
                    "leave at least 4 tokens for keys and values, and some for noise, if any"
                )

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        self.top = self.config.vocab_size - self.config.noise_vocab_size  # end of the values
        self.keys = self.top // 2  # and first of the values

    @property
    def chance(self) -> float:
        """1 / (number of values)."""
        return 1 / (self.top - self.keys)

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows, each with its own mapping."""
        rng, pairs = generator(seed), self.config.length // 2
        mapping = torch.randint(self.keys, self.top, (count, self.keys), generator=rng)
        key = torch.randint(self.keys, (count, pairs), generator=rng)
        noisy = torch.rand(count, pairs, generator=rng) < self.config.noise
        one = torch.randint(pairs - 1, (count, 1), generator=rng)
        noisy.scatter_(1, one, False).select(1, -1).fill_(False)
        known = self.was_shown(key, noisy)
        # the last key is one of the earlier ones, uniformly
        draw = torch.rand(count, self.keys, generator=rng) * known[1]
        key[:, -1] = draw.argmax(1)
        known[0][:, -1] = True
        row = torch.stack([key, mapping.gather(1, key)], 2)
        if self.config.noise:
            other = torch.randint(self.top, self.config.vocab_size, row.shape, generator=rng)
            row = torch.where(noisy[:, :, None], other, row)
        row = row.flatten(1)
        labels = row[:, 1:].clone()
        if seed >= UNSEEN:
            labels[:, 1::2] = IGNORED
            labels[:, 0::2] = torch.where(known[0], labels[:, 0::2], IGNORED)
        return Examples(row[:, :-1], labels)

    def was_shown(
        self, key: Int[Tensor, "N P"], noisy: Bool[Tensor, "N P"]
    ) -> tuple[Bool[Tensor, "N P"], Bool[Tensor, "N K"]]:
        """Whether the key of each pair occurred earlier; and the keys before the last pair."""
        there = torch.zeros(len(key), self.keys, dtype=torch.bool)
        before = torch.zeros_like(noisy)
        for i in range(key.shape[1] - 1):
            told = (~noisy[:, i]).nonzero()[:, 0]
            before[told, i] = there[told, key[told, i]]
            there[told, key[told, i]] = True
        return before, there

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The token that followed each key earlier in the row; elsewhere 0."""
        answers = torch.zeros_like(input_ids)
        for row, answer in zip(input_ids.tolist(), answers, strict=True):
            told: dict[int, int] = {}
            for t in range(0, len(row), 2):
                answer[t] = told.get(row[t], 0)
                if t + 1 < len(row):
                    told[row[t]] = row[t + 1]
        return answers

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random values."""
        return torch.randint(self.keys, self.top, labels.shape, generator=generator(seed))


class InContextRecall(Pairs):
    """MAD, in-context recall: give the values of repeated keys."""

    changes = {"vocab_size": (32, 64, 128), "length": LONGER, "train_examples": FEWER}

    @classmethod
    def tiny(cls) -> "InContextRecall":
        """Twelve pairs."""
        return cls(cls.Config(vocab_size=8, length=24))


class NoisyRecall(Pairs):
    """MAD, noisy in-context recall: a share of the pairs is noise, made of its own tokens."""

    changes = {
        "vocab_size": (48, 80, 144),
        "length": LONGER,
        "train_examples": FEWER,
        "noise": (0.4, 0.6, 0.8),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(Pairs.Config):
        """Sizes of the task."""

        vocab_size: int = 32  # tokens, noise included
        noise_vocab_size: int = 16  # of the tokens, those used only for noise
        noise: float = 0.2  # share of the pairs that are noise

    @classmethod
    def tiny(cls) -> "NoisyRecall":
        """Twelve pairs, one in five of them noise."""
        return cls(cls.Config(vocab_size=12, noise_vocab_size=4, length=24))
