"""Selects questions about the earlier passages of a document to replay."""

import random
from itertools import zip_longest

from nestling.continual.study.examine import by_sentence
from nestling.continual.study.record import Open

MOST = 32  # questions


def replayed(now: Open, seed: str, most: int = MOST) -> list[tuple[str, str]]:
    """Questions and answers of earlier passages.

    Each sentence has its likeliest question before any has a second one, as these are what the
    model recites by.
    """
    groups = [[one for one in group if one.answer] for group in by_sentence(now.earlier)]
    random.Random(f"replay:{seed}").shuffle(groups)
    turns = [one for turn in zip_longest(*groups) for one in turn if one is not None]
    return [(one.question, one.answer) for one in turns[:most]]
