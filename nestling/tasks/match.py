"""Compares generated text with the right answers, and converts log-probabilities to bits."""

import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from nestling.core.error import UserError


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().lower()


def contains_all(text: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """The share of the answers that occur in the text, ignoring case (as in RULER).

    >>> contains_all("They are 17 and 23.", ["17", "42"], [])
    0.5
    """
    plain = _plain(text)
    return sum(_plain(answer) in plain for answer in answers) / len(answers)


def contains_any(text: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """1 if one of the answers occurs in the text, ignoring case."""
    plain = _plain(text)
    return float(any(_plain(answer) in plain for answer in answers))


def contains_only(text: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """1 if the first sentence of the text names the answer and no other choice (as in BABILong).

    >>> contains_only("The Office. Or kitchen?", ["office"], ["office", "kitchen"])
    1.0
    >>> contains_only("office or kitchen", ["office"], ["office", "kitchen"])
    0.0
    """
    plain = _plain(text.partition(".")[0])
    return float({choice for choice in choices if _plain(choice) in plain} == {answers[0]})


def exact(text: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """1 if the text is one of the answers, ignoring case, whitespace and a final full stop.

    >>> exact(" Kitchen. ", ["kitchen"], [])
    1.0
    """
    return float(_plain(text).rstrip(".") in {_plain(answer).rstrip(".") for answer in answers})


def chrf(text: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """chrF2 of the text with the answers as references, in [0, 1], by sacrebleu."""
    return _chrf().sentence_score(text, list(answers)).score / 100


def chrf_of_all(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Corpus-level chrF2, in [0, 1]: n-grams are counted over all texts.

    Every text must have the same number of references. This is what sacrebleu and papers report as
    the chrF of a system; the mean over sentences (``chrf``) differs, and is usually a bit larger.
    """
    references = [list(alternative) for alternative in zip(*answers, strict=True)]
    return _chrf().corpus_score(list(texts), references).score / 100


def _chrf() -> Any:
    try:
        metrics = importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise UserError("chrF needs sacrebleu: pip install 'nestling[eval]'") from error
    return metrics.CHRF()


def bits_per_byte(log_probability: float, text: str) -> float:
    """Bits per UTF-8 byte of a text with this natural log-probability.

    >>> bits_per_byte(-16 * math.log(2), "ab")
    8.0
    """
    return -log_probability / math.log(2) / len(text.encode())


# each takes the generated text, the right answers, and the possible answers
MATCHES: dict[str, Callable[[str, Sequence[str], Sequence[str]], float]] = {
    "all": contains_all,
    "any": contains_any,
    "only": contains_only,
    "exact": exact,
    "chrf": chrf,
}
