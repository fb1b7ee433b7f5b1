"""Annotations are checked in tests, also for repeated similar calls."""

from dataclasses import dataclass

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from checks import OFTEN, SPARSE, begin, compared
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from nestling.core.memory import map_state
from nestling.rules.newton_schulz import newton_schulz

WRONG = (TypeCheckError, BeartypeCallHintViolation)


@compared
def product(a: Float[Tensor, "B K"], b: Float[Tensor, "B K"], *, flat=False) -> Float[Tensor, "B"]:
    return (a * b).flatten() if flat else (a * b).sum(-1)


@compared
def half(number: int, names: list[str] | None = None) -> int:
    return number / 2 if number % 2 else number // 2


def test_shapes_are_cached_and_errors_always_raised():
    x = torch.ones(2, 3)
    for _ in range(2):
        assert product(x, x).tolist() == [3, 3]
        for wrong in ((x, x.T), (x, x.long()), (x[0], x[0]), (x, None)):
            with pytest.raises(WRONG):
                product(*wrong)
        with pytest.raises(WRONG):
            product(x, x, flat=True)
    assert product(x[:, :1], x[:, :1], flat=True).tolist() == [1, 1]


def test_frequent_calls_are_sampled_and_reset_between_tests():
    x = torch.ones(2, 3)
    begin()
    for _ in range(OFTEN):
        product(x, x)
    found = 0
    for _ in range(SPARSE):
        try:
            product(x, x, flat=True)
        except WRONG:
            found += 1
    assert found == 1
    begin()
    for _ in range(OFTEN):
        with pytest.raises(WRONG):
            product(x, x, flat=True)


def test_types_and_container_items():
    for _ in range(2):
        assert half(4, ["a"]) == 2
        for wrong in ((4.0,), (4, [1]), (4, "a"), (3,)):
            with pytest.raises(WRONG):
                half(*wrong)


def test_closures_share_the_cache_but_not_values():
    def added(x: Float[Tensor, "N"], to: float):
        @compared
        def add(y: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
            return x + y + to

        return add

    x = torch.ones(3)
    assert [added(x, to)(x).tolist() for to in (0.0, 1.0)] == [[2.0] * 3, [3.0] * 3]
    with pytest.raises(WRONG):
        added(x, 0.0)(torch.ones(3, 1))


def test_properties_class_methods_and_dataclasses_are_checked():
    @compared
    @dataclass
    class Pair:
        a: int
        b: Float[Tensor, "_"]

    class Kind:
        @compared
        @classmethod
        def of(cls, a: int) -> str:
            return "x" * a

        @compared
        @property
        def wrong(self) -> int:
            return "x"

    assert (Pair(1, torch.ones(2)).a, Kind.of(2)) == (1, "xx")
    for call in (lambda: Pair(1, 2), lambda: Kind.of("a"), lambda: Kind().wrong):
        with pytest.raises(WRONG):
            call()


def test_library_is_type_checked():
    with pytest.raises(WRONG):
        map_state(1, None)
    with pytest.raises(WRONG):
        newton_schulz(torch.ones(2, 2).tolist())
