"""Checking arguments against annotations."""

from typing import NamedTuple

import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.shapes import REMEMBERED, Leaf, Shape, Wanted, checked


class Held(NamedTuple):
    """A state of two tensors."""

    weight: Float[Tensor, "B H K"]
    count: Int[Tensor, " B"]


@checked
def op(
    q: Float[Tensor, "B T #H K"],
    w: Float[Tensor, "B T H"],
    *,
    state: Held | None = None,
    start: Float[Tensor, "*B H K"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    size: int = 1,
) -> int:
    """Nothing."""
    return size


def right() -> dict:
    return {
        "q": torch.zeros(2, 5, 3, 4),
        "w": torch.zeros(2, 5, 3),
        "state": Held(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long)),
        "start": torch.zeros(3, 4),
        "mask": torch.ones(2, 5, dtype=torch.bool),
    }


def test_correct_arguments_pass():
    given = right()
    assert op(**given, size=7) == 7
    assert op(given["q"][:, :, :1], given["w"]) == 1
    assert op(**{**given, "start": torch.zeros(2, 3, 4), "state": None}) == 1
    assert op(given["q"].bfloat16(), given["w"].double()) == 1


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("w", torch.zeros(2, 5), r"op: w is \[2, 5\]; expected \[B=2, T=5, H=3\]"),
        ("w", torch.zeros(2, 6, 3), r"w is \[2, 6, 3\]; expected \[B=2, T=5"),
        ("q", torch.zeros(2, 5, 2, 4), r"w is \[2, 5, 3\]; expected \[B=2, T=5, H=2\]"),
        ("q", torch.zeros(2, 5, 3, 4).long(), "q is of dtype torch.int64; give a tensor of float"),
        ("q", [1.0], "q is list; give a tensor"),
        ("q", None, "q is NoneType; give a tensor"),
        ("mask", torch.ones(2, 5), "mask is of dtype torch.float32; give a tensor of bool"),
        ("mask", torch.ones(5, dtype=torch.bool), r"mask is \[5\]; expected \[B=2, T=5\]"),
        ("w", torch.zeros(2, 5, 3, device="meta"), "w is on meta, q on cpu"),
        ("state", (torch.zeros(1),), "state is tuple; give a Held"),
        (
            "state",
            Held(torch.zeros(1, 3, 4), torch.zeros(2, dtype=torch.long)),
            r"state.weight is \[1, 3, 4\]; expected \[B=2, H=3, K=4\]",
        ),
        (
            "state",
            Held(torch.zeros(2, 3, 4), torch.zeros(2)),
            "state.count is of dtype torch.float32",
        ),
        ("start", torch.zeros(4, 3), r"start is \[4, 3\]; expected"),
    ],
)
def test_wrong_argument_is_named(name, value, text):
    with pytest.raises(UserError, match=text):
        op(**{**right(), name: value})


def test_earlier_valid_call_does_not_hide_a_wrong_argument():
    given = right()
    for _ in range(2):
        op(**given)
        with pytest.raises(UserError, match="w is"):
            op(**{**given, "w": torch.zeros(2, 5, 2)})


def test_errors_show_sizes_and_the_cache_is_bounded():
    wanted = Wanted(
        "f", {"x": Leaf(Shape.of("B N-1"), "float"), "y": Leaf(Shape.of("N _ 2"), "int")}
    )
    y = torch.zeros(4, 9, 2, dtype=torch.int32)
    assert wanted.verify({"x": torch.zeros(5, 3), "y": y}) == {"B": 5, "N": 4}
    with pytest.raises(UserError, match=r"x is \[5, 3\]; expected \[B, N-1=4\]"):
        wanted.verify({"x": torch.zeros(5, 3), "y": y}, N=5)
    for batch in range(2 * REMEMBERED):
        wanted.verify({"x": torch.zeros(batch, 3), "y": y})
    assert len(wanted._right) <= REMEMBERED
