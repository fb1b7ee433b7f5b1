"""Times contestants in turns, so that ratios are of figures taken under the same load."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch


@dataclass(kw_only=True)
class Contestant:
    """A piece of work to time, with the seconds of each round."""

    name: str
    work: Callable[[], object]
    seconds: list[float] = field(default_factory=list)


class Spread(NamedTuple):
    """The median of several rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread:
    """The median, lowest and highest of at least one value.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, lowest=1.0, highest=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def over(ours: Contestant, theirs: Contestant) -> Spread:
    """The speed of ``ours`` relative to ``theirs``, round by round."""
    return spread([b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)])


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def take_turns(
    contestants: Sequence[Contestant], *, rounds: int, device: str = "cpu", quiet: bool = False
) -> None:
    """Time each contestant once per round; the order is reversed in every round."""
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            wait(device)
            begin = time.perf_counter()
            contestant.work()
            wait(device)
            contestant.seconds.append(time.perf_counter() - begin)
        say(f"round {number + 1} of {rounds}", quiet)


def say(message: str, quiet: bool) -> None:
    """Report progress on stderr, unless ``quiet``."""
    if not quiet:
        print(message, file=sys.stderr)
