"""Formal languages: after each symbol, is the prefix a word, or which symbols may follow?"""

import zlib
from abc import abstractmethod
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.protocol import Protocol
from nestling.tasks.task import IGNORED, UNSEEN, Examples, TokenTask, generator

SHORT = 8  # symbols; from this length on, one word in four is held out of training


class FormalLanguage(TokenTask):
    """Words of a language with a class at every position; a row is right only as a whole.

    For regular languages the class is whether the prefix is a word, for counter languages it is
    the set of symbols that may follow. Training words have at most ``longest`` symbols. Test words
    have the same lengths (bin 0) or are longer, up to ``beyond`` symbols (bin 1); lengths are
    uniform. Rows are padded on the right.

    Deviates: the words of bin 0 are held out of training by their hash, except in languages with
    one word per length, where they are training words (as published). The published words of
    parity and shuffle-2 have other lengths, and those of shuffle-2 never cross brackets.
    """

    source = "Irie et al. 2023, arXiv 2310.16076 (data as Bhattamishra et al. 2020)"
    protocol = Protocol(
        source="Irie et al. 2023; of its public code the rate and batch, where it tells of a sweep",
        epochs=300,
        batch_size=64,
        learning_rates=(1e-4,),
        betas=(0.9, 0.995),
        rows=2000,
        measured={"bin": (0, 1)},
        enough=1.0,
        keep="best",
    )
    whole = True
    symbols: ClassVar[str]
    classes: ClassVar[int]  # number of classes
    one_a_length: ClassVar[bool]  # whether there is one word of each length

    @dataclass(frozen=True, kw_only=True)
    class Config(TokenTask.Config):
        """Lengths of the words."""

        longest: int = 50  # symbols of a training word, at most
        beyond: int = 100  # symbols of a word in bin 1, at most
        bin: int = 1  # the bin that is measured: 0 or 1
        train_examples: int = 10_000  # rows to train on

        def __post_init__(self) -> None:
            if self.bin not in (0, 1):
                raise UserError(
                    f"bin is {self.bin}; give 0 (lengths of training) or 1 (longer words)"
                )
            if not 12 <= self.longest <= self.beyond - 6:
                raise UserError(
                    f"longest is {self.longest} and beyond {self.beyond}; give longest >= 12 and "
                    "beyond >= longest + 6"
                )

    changes = {"bin": (0,)}

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()

    @classmethod
    def tiny(cls) -> "FormalLanguage":
        """Training words of up to 12 symbols, test words of up to 24."""
        return cls(cls.Config(longest=12, beyond=24))

    @property
    def vocab_size(self) -> int:
        """The number of symbols, padding and classes together."""
        return len(self.symbols) + 1 + self.classes

    @property
    def chance(self) -> float:
        """The probability that all positions of a row are right, averaged over the lengths."""
        lengths = self.lengths(unseen=True)
        return sum(self.classes**-length for length in lengths) / len(lengths)

    @abstractmethod
    def fits(self, length: int) -> bool:
        """Whether the language has words of this length."""

    @abstractmethod
    def word(self, rng: Random, length: int) -> str:
        """Draw a word of this length."""

    @abstractmethod
    def labels(self, word: str) -> list[int]:
        """The class after each symbol."""

    def lengths(self, unseen: bool) -> list[int]:
        """The lengths of the words to train on, or to measure."""
        longer = unseen and self.config.bin == 1
        begin = self.config.longest + 1 if longer else SHORT if self.holds_out(unseen) else 2
        end = self.config.beyond if longer else self.config.longest
        return [length for length in range(begin, end + 1) if self.fits(length)]

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` words with labels; a seed from ``UNSEEN`` on gives words of the bin."""
        unseen = seed >= UNSEEN
        rng, lengths = Random(f"{type(self).__name__}:{seed}"), self.lengths(unseen)
        width = self.config.beyond if unseen and self.config.bin == 1 else self.config.longest
        input_ids = torch.full((count, width), len(self.symbols))
        labels = torch.full((count, width), IGNORED)
        for row in range(count):
            word = self.draw(rng, rng.choice(lengths), unseen)
            input_ids[row, : len(word)] = torch.tensor([self.symbols.index(s) for s in word])
            labels[row, : len(word)] = self.first_class + torch.tensor(self.labels(word))
        return Examples(input_ids, labels)

    def holds_out(self, unseen: bool) -> bool:
        """Whether only words held out of training are drawn."""
        return unseen and self.config.bin == 0 and not self.one_a_length

    def draw(self, rng: Random, length: int, unseen: bool) -> str:
        """Draw a word from the right side of the split between training and measuring."""
        while True:
            word = self.word(rng, length)
            if self.one_a_length or not SHORT <= length <= self.config.longest:
                return word
            if (zlib.crc32(word.encode()) % 4 == 0) == unseen:
                return word

    @property
    def first_class(self) -> int:
        """The token that is class 0."""
        return len(self.symbols) + 1

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The class after each symbol of the word; 0 at padding."""
        answers = torch.zeros_like(input_ids)
        for row, answer in zip(input_ids.tolist(), answers, strict=True):
            word = "".join(self.symbols[token] for token in row if token < len(self.symbols))
            answer[: len(word)] = self.first_class + torch.tensor(self.labels(word))
        return answers

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Uniformly random classes."""
        rng = generator(seed)
        return torch.randint(self.first_class, self.vocab_size, labels.shape, generator=rng)


class Regular(FormalLanguage):
    """Class 1 where the prefix is a word of the language, else 0."""

    classes = 2

    @abstractmethod
    def accepts(self, prefix: str) -> bool:
        """Whether ``prefix`` is a word of the language."""

    def labels(self, word: str) -> list[int]:
        """Whether each prefix is a word."""
        return [int(self.accepts(word[: end + 1])) for end in range(len(word))]


class Parity(Regular):
    """Formal language: words of 0 and 1 with an even number of ones."""

    symbols = "01"
    one_a_length = False

    def fits(self, length: int) -> bool:
        """True: there are words of every length."""
        return length > 0

    def word(self, rng: Random, length: int) -> str:
        """Fair random bits, the last set so that the number of ones is even."""
        bits = [rng.getrandbits(1) for _ in range(length - 1)]
        return "".join(map(str, [*bits, sum(bits) % 2]))

    def accepts(self, prefix: str) -> bool:
        """Whether the number of ones is even."""
        return prefix.count("1") % 2 == 0


class Repeated(Regular):
    """Repetitions of one piece."""

    piece: ClassVar[str]
    one_a_length = True

    def fits(self, length: int) -> bool:
        """Whether the length is a multiple of the piece's."""
        return length % len(self.piece) == 0

    def word(self, rng: Random, length: int) -> str:
        """The only word of this length."""
        return self.piece * (length // len(self.piece))

    def accepts(self, prefix: str) -> bool:
        """Whether the prefix consists of whole pieces."""
        return prefix == self.piece * (len(prefix) // len(self.piece))


class AAStar(Repeated):
    """Formal language (aa)*: an even number of a."""

    symbols = "a"
    piece = "aa"


class AbabStar(Repeated):
    """Formal language (abab)*: repetitions of abab."""

    symbols = "ab"
    piece = "abab"


class Counter(FormalLanguage):
    """The same number of each symbol, one symbol after the other: a^n b^n and so on.

    Classes: a or b may follow; then one class per symbol after a, which alone may follow; last,
    the end of the word.
    """

    one_a_length = True

    def fits(self, length: int) -> bool:
        """Whether the length is a multiple of the number of symbols."""
        return length % len(self.symbols) == 0

    def word(self, rng: Random, length: int) -> str:
        """The only word of this length."""
        return "".join(symbol * (length // len(self.symbols)) for symbol in self.symbols)

    def labels(self, word: str) -> list[int]:
        """After an a: a or b. After another symbol: the same again, after its last the next."""
        n = len(word) // len(self.symbols)
        return [0] * n + [1 + (t + 1) // n - 1 for t in range(n, len(word))]


class AnBn(Counter):
    """Formal language a^n b^n: which symbols may follow."""

    symbols = "ab"
    classes = 3


class AnBnCn(Counter):
    """Formal language a^n b^n c^n: which symbols may follow."""

    symbols = "abc"
    classes = 4


class Shuffle2(FormalLanguage):
    """Formal language Shuffle-2: two kinds of brackets, each balanced by itself.

    Any bracket may be opened at any time; the class says which of the two may be closed.
    """

    symbols = "()[]"
    classes = 4
    one_a_length = False

    def fits(self, length: int) -> bool:
        """Whether the length is even: brackets come in pairs."""
        return length % 2 == 0

    def word(self, rng: Random, length: int) -> str:
        """Two balanced words, interleaved at random; the share of each is uniform."""
        first = rng.randrange(length // 2 + 1)
        parts = [balanced(rng, first, "()"), balanced(rng, length // 2 - first, "[]")]
        turns = [0] * len(parts[0]) + [1] * len(parts[1])
        rng.shuffle(turns)
        both = [iter(part) for part in parts]
        return "".join(next(both[turn]) for turn in turns)

    def labels(self, word: str) -> list[int]:
        """Bit 0: a round bracket is open; bit 1: a square one is."""
        found, depth = [], [0, 0]
        for symbol in word:
            place = self.symbols.index(symbol)
            depth[place // 2] += 1 - 2 * (place % 2)
            found.append((depth[0] > 0) + 2 * (depth[1] > 0))
        return found


def balanced(rng: Random, pairs: int, brackets: str) -> str:
    """Draw a balanced word of ``pairs`` pairs, uniformly over all such words.

    By the cycle lemma, exactly one rotation of a shuffled word with one extra closing bracket is
    balanced up to its last symbol.
    """
    steps = [1] * pairs + [-1] * (pairs + 1)
    rng.shuffle(steps)
    height = lowest = place = 0
    for t, step in enumerate(steps):
        height += step
        if height < lowest:
            lowest, place = height, t + 1
    turned = (steps[place:] + steps[:place])[:-1]
    return "".join(brackets[0] if step == 1 else brackets[1] for step in turned)
