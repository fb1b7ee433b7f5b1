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

    Keys and values use different tokens, and no token occurs twice in a motif. For training seeds
    motifs have 1 to ``key_motif`` tokens and every next token is a label. For test seeds keys have
    exactly ``key_motif`` tokens, and the labels are the value tokens of every repeated key. The
    last pair repeats an earlier one. Rows are padded on the left with the last token.

    Deviates: the repeated pair always fits into the row before it is asked for.
    """

    changes = {"vocab_size": (32, 64, 128), "length": (256, 512, 1024), "train_examples": FEWER}

    @dataclass(frozen=True, kw_only=True)
    class Config(Mad.Config):
        """Sizes of the task; half of the tokens before the last belong to keys."""

        key_motif: int = 3  # tokens of a key, at most
        value_motif: int = 3  # tokens of a value, at most

        def __post_init__(self) -> None:
            super().__post_init__()
            most = self.key_motif + self.value_motif
            if min(self.key_motif, self.value_motif) < 1 or self.length < 4 * most:
                raise UserError(
                    f"key_motif is {self.key_motif}, value_motif {self.value_motif}, length "
                    f"{self.length}; give motifs of at least 1 token and a length of at least four "
                    "times their sum"
                )
            if (self.vocab_size - 1) // 2 < max(self.key_motif, self.value_motif):
                raise UserError(
                    f"vocab_size is {self.vocab_size}, too small; give at least "
                    f"{2 * max(self.key_motif, self.value_motif) + 1}"
                )

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        self.top = self.config.vocab_size - 1  # end of the values; also the padding token
        self.keys = self.top // 2

    @classmethod
    def tiny(cls) -> "FuzzyRecall":
        """Motifs of one or two tokens."""
        return cls(cls.Config(vocab_size=10, length=32, key_motif=2, value_motif=2))

    @property
    def chance(self) -> float:
        """1 / (number of value tokens)."""
        return 1 / (self.top - self.keys)

    def examples(self, seed: int, count: int) -> Examples:
        """``count`` rows, each with its own mapping."""
        rng, unseen = Random(f"fuzzy:{seed}"), seed >= UNSEEN
        rows = [self.row(rng, unseen) for _ in range(count)]
        tokens, labels = (torch.tensor(part) for part in zip(*rows, strict=True))
        return Examples(tokens[:, :-1], (labels if unseen else tokens)[:, 1:])

    def row(self, rng: Random, unseen: bool) -> tuple[list[int], list[int]]:
        """Draw the tokens and labels of one row, with one token more than the row holds."""
        config = self.config
        most = config.key_motif + config.value_motif
        told: dict[tuple[int, ...], tuple[int, ...]] = {}  # the pairs drawn so far
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
        """The tokens of the value that followed the same key earlier; elsewhere 0."""
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
        """Uniformly random value tokens."""
        return torch.randint(self.keys, self.top, labels.shape, generator=generator(seed))
