"""MAD's selective copying, compression and memorisation."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.mad.base import FEWER, Mad
from nestling.tasks.task import IGNORED, Examples, generator

FACTS = 12345  # seed of the mapping to memorise; part of the task


class SelectiveCopying(Mad):
    """MAD, selective copying: copy the tokens among blanks, in order, at the end.

    ::

        input   . a . . b a . c  >  . . . .
        label   - - - - - - - -  -  a b a c

    As published, the last of the tokens comes directly before the copy sign ">".
    """

    changes = {
        "vocab_size": (32, 64, 128),
        "length": (512, 1024),
        "train_examples": FEWER,
        "copied": (32, 64, 96),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; the last two tokens are the blank and the copy sign."""

        length: int = 256  # tokens of a row
        copied: int = 16  # tokens to copy

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 < self.copied < self.length / 2:
                raise UserError(
                    f"length is {self.length}, copied {self.copied}; give 0 < copied < length / 2"
                )

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @classmethod
    def tiny(cls) -> "SelectiveCopying":
        """Six tokens to copy."""
        return cls(cls.Config(vocab_size=8, length=24, copied=6))

    @property
    def chance(self) -> float:
        """1 / (number of tokens that may be copied)."""
        return 1 / (self.vocab_size - 2)

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows."""
        rng, copied, blank = generator(seed), self.config.copied, self.vocab_size - 2
        told = torch.randint(blank, (count, copied), generator=rng)
        blanks = self.config.length - 2 * copied - 1
        # each blank stands before one of the tokens
        before = torch.randint(copied, (count, blanks), generator=rng)
        counts = torch.zeros(count, copied, dtype=torch.long)
        counts.scatter_add_(1, before, torch.ones_like(before))
        input_ids = torch.full((count, self.config.length), blank)
        input_ids.scatter_(1, counts.cumsum(1) + torch.arange(copied), told)
        input_ids[:, -copied - 1] = self.vocab_size - 1
        labels = torch.full_like(input_ids, IGNORED)
        labels[:, -copied:] = told
        return Examples(input_ids, labels)

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The tokens that are neither blank nor copy sign, in order, at the end."""
        answers = torch.zeros_like(input_ids)
        told = input_ids[input_ids < self.vocab_size - 2].view(len(input_ids), -1)
        answers[:, -told.shape[1] :] = told
        return answers

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random tokens of those that may be copied."""
        return torch.randint(self.vocab_size - 2, labels.shape, generator=generator(seed))


class Compression(Mad):
    """MAD, compression: reconstruct a row from the output at its last position.

    The labels are the row itself. The answers must be decoded from the output at the last position
    alone (``readout``), by a network that is told which position to decode. The published decoder
    has two layers of the model's width and adds sinusoidal position embeddings.
    """

    readout = "last"
    changes = {"vocab_size": (32, 64, 128), "length": (64, 128, 256), "train_examples": FEWER}

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; the last token ends every row."""

        length: int = 32  # tokens of a row, including the last

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @classmethod
    def tiny(cls) -> "Compression":
        """A vocabulary of eight tokens."""
        return cls(cls.Config(vocab_size=8, length=12))

    @property
    def chance(self) -> float:
        """The class average of random tokens, with the last one, which never varies, right."""
        return 2 / self.vocab_size

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows."""
        shape = (count, self.config.length)
        input_ids = torch.randint(self.vocab_size - 1, shape, generator=generator(seed))
        input_ids[:, -1] = self.vocab_size - 1
        return Examples(input_ids, input_ids.clone())

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The row itself."""
        return input_ids

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random tokens, then the end token."""
        return self.examples(seed, len(labels)).input_ids


class Memorisation(Mad):
    """MAD, memorisation: key-value pairs that are the same in every row, with values masked.

    ::

        input   k7 ? k2 ? k7 ?
        label   -  c -  a -  c

    The row does not contain the answer, which has to be learned in training. Test rows are new,
    their pairs are those of training.
    """

    changes = {"vocab_size": (512, 1024, 2048, 4096, 8192)}

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; the last token masks a value, half of the others are keys."""

        vocab_size: int = 256  # keys, values and the mask
        length: int = 32  # tokens of a row
        train_examples: int = 256  # rows to train on

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @classmethod
    def tiny(cls) -> "Memorisation":
        """Seven pairs."""
        return cls(cls.Config(vocab_size=16, length=12))

    @property
    def keys(self) -> int:
        """The number of keys; there may be one more value than keys."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """The class average of random values; with one more value than keys, one is never right."""
        values = self.vocab_size - 1 - self.keys
        return self.keys / values**2

    @cached_property
    def facts(self) -> Int[Tensor, "K"]:
        """The value of each key; no two keys share one."""
        values = self.vocab_size - 1 - self.keys
        return self.keys + torch.randperm(values, generator=generator(FACTS))[: self.keys]

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows of random keys."""
        shape = (count, self.config.length // 2)
        key = torch.randint(self.keys, shape, generator=generator(seed))
        input_ids = torch.stack([key, torch.full_like(key, self.vocab_size - 1)], 2).flatten(1)
        labels = torch.stack([torch.full_like(key, IGNORED), self.facts[key]], 2).flatten(1)
        return Examples(input_ids, labels)

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The value of the key before each mask; elsewhere 0."""
        before = input_ids.roll(1, 1)
        asked = (input_ids == self.vocab_size - 1) & (before < self.keys)
        return torch.where(asked, self.facts[before.clamp(max=self.keys - 1)], 0)

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random values."""
        return torch.randint(
            self.keys, self.vocab_size - 1, labels.shape, generator=generator(seed)
        )
