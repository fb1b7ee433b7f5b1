"""MAD's fuzzy in-context recall: keys and values of several tokens."""

from dataclasses import dataclass
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.mad.base import FEWER, Mad
from nestling.tasks.task import IGNORED, UNSEEN, Examples, generator


class FuzzyRecall(Mad):
    """MAD, fuzzy in-context recall: keys and values are motifs of up to three tokens.

    Keys are made of other tokens than values, and no token comes twice in a motif. Of training
    seeds motifs have 1 to ``key_motif`` tokens and every next token is a label; else keys have
    ``key_motif``, and scored are the tokens of the value of every key that was there before. The
    last pair repeats one of the row. Rows are filled up from the left with the last token.

    Deviates: the pair that is repeated always fits in the row before it is asked for.
    """

    changes = {"vocab_size": (32, 64, 128), "length": (256, 512, 1024), "train_examples": FEWER}

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; half of the tokens before the last are keys'."""

        key_motif: int = 3  # most tokens of a key
        value_motif: int = 3  # most tokens of a value

        def __post_init__(self) -> None:
            super().__post_init__()
            most = self.key_motif + self.value_motif
            if min(self.key_motif, self.value_motif) < 1 or self.length < 4 * most:
                raise UserError("motifs need at least one token, and length four times their sum")
            if (self.vocab_size - 1) // 2 < max(self.key_motif, self.value_motif):
                raise UserError("vocab_size must hold the tokens of a key, of a value and the fill")

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        self.top = self.config.vocab_size - 1  # end of the values; also the fill
        self.keys = self.top // 2

    @classmethod
    def tiny(cls) -> "FuzzyRecall":
        """Motifs of one or two tokens."""
        return cls(cls.Config(vocab_size=10, length=32, key_motif=2, value_motif=2))

    @property
    def chance(self) -> float:
        """One of the tokens of values."""
        return 1 / (self.top - self.keys)

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows, each with a mapping of its own."""
        rng, unseen = Random(f"fuzzy:{seed}"), seed >= UNSEEN
        rows = [self.row(rng, unseen) for _ in range(count)]
        tokens, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
        return Examples(tokens[:, :-1], (labels if unseen else tokens)[:, 1:])

    def row(self, rng: Random, unseen: bool) -> tuple[list[int], list[int]]:
        """Tokens and labels of one row, one token more than the row has."""
        config = self.config
        most = config.key_motif + config.value_motif
        told: dict[tuple[int, ...], tuple[int, ...]] = {}  # of the keys drawn so far
        tokens: list[int] = []
        labels: list[int] = []
        there: set[tuple[int, ...]] = set()

        def draw() -> tuple[int, ...]:
            size = config.key_motif if unseen else rng.randint(1, config.key_motif)
            key = tuple(rng.sample(range(self.keys), size))
            if key not in told:
                size = rng.randint(1, config.value_motif)
                told[key] = tuple(rng.sample(range(self.keys, self.top), size))
            return key

        def put(key: tuple[int, ...]) -> None:
            value = told[key]
            tokens.extend(key + value)
            labels.extend([IGNORED] * len(key))
            labels.extend(value if key in there else [IGNORED] * len(value))
            there.add(key)

        asked = draw()
        end = config.length - len(asked) - len(told[asked]) - most
        place = rng.randrange(end - most + 1)
        while len(tokens) < end:
            put(asked if asked not in there and len(tokens) >= place else draw())
        put(asked)
        fill = config.length + 1 - len(tokens)
        return [self.top] * fill + tokens, [IGNORED] * fill + labels

    def oracle(self, input_ids: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """The tokens of the value that followed the same key before; elsewhere 0."""
        answers = torch.zeros_like(input_ids)
        for row, answer in zip(input_ids.tolist(), answers, strict=True):
            told: dict[tuple[int, ...], tuple[int, ...]] = {}
            key: list[int] = []
            value: list[int] = []
            for t, token in enumerate(row):
                if token == self.top:
                    continue
                if token < self.keys and value:  # the value has ended
                    told.setdefault(tuple(key), tuple(value))
                    key, value = [], []
                (key if token < self.keys else value).append(token)
                known = told.get(tuple(key), ())
                if len(value) < len(known):
                    answer[t] = known[len(value)]
        return answers

    def guess(self, seed: int, labels: Int[Tensor, "N T"]) -> Int[Tensor, "N T"]:
        """Any token of values."""
        return torch.randint(self.keys, self.top, labels.shape, generator=generator(seed))
