"""Changes by `make test-anywhere` within the test processes.

Children that a test starts are not changed: they have the seeds and threads they ask for.
"""

import os
import random

import pytest
import torch

SEED = "NESTLING_TEST_SEED"  # environment; a number that is added to every seed
THREADS = "NESTLING_TEST_THREADS"  # environment; torch's threads in a test, 1 where it is not set


PLAIN = torch.manual_seed, torch.Generator  # before any shift
# for recorded results of a seed, or comparison with a process without the shift
as_written = pytest.mark.skipif(
    os.environ.get(SEED, "0") != "0", reason=f"{SEED} shifts the seed it is about"
)


def unshifted(seed: int) -> torch.Generator:
    """torch's generator without the shift: for a problem whose options are tuned to it."""
    return PLAIN[1]().manual_seed(seed)


def seed_unshifted(seed: int) -> None:
    """The same for what is drawn without a generator."""
    PLAIN[0](seed)


def seed() -> int:
    """The offset added to every seed; 0: unchanged tests."""
    return int(os.environ.get(SEED, "0"))


def threads() -> int:
    """The number of torch threads in a test."""
    return int(os.environ.get(THREADS, "1"))


def shift_seeds(by: int) -> None:
    """From here on each seed that torch or `random` is given is another: by ``by`` further on.

    The same seed still gives the same numbers and others give others. Weights, texts, questions and
    orders made from seeds are shifted with those that the tests draw themselves; seeds of numpy and
    of hypothesis (`--hypothesis-seed`) are not.
    """
    plain = torch.manual_seed
    torch.Generator = generator(by)  # ty: ignore[invalid-assignment]
    torch.manual_seed = torch.random.manual_seed = lambda seed: plain(seed + by)
    random.Random = generator_of_python(by)  # ty: ignore[invalid-assignment]


def generator(by: int) -> type[torch.Generator]:
    """torch's, with seeds shifted."""

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed((seed + by) % 2**63)

    return Generator


def generator_of_python(by: int) -> type[random.Random]:
    """Python's, with whole numbers and texts as seeds shifted; without a seed as it was."""

    class Random(random.Random):
        def seed(self, a=None, version=2):
            if isinstance(a, int):
                a += by
            elif isinstance(a, str):
                a = f"{a} {by}"
            super().seed(a, version)

    return Random
