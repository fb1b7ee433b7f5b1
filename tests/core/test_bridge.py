"""Structs of compiled code match the sources and are filled with checked values only."""

import re
from pathlib import Path

import pytest
import torch

from nestling.core.bridge import COLUMN, Bridge
from nestling.core.error import UserError
from nestling.ops import self_titans, short_convolution, ttt
from nestling.ops.momentum_gated_delta_rule import compiled
from nestling.ops.self_titans import token
from nestling.optim import sweep

BRIDGES = {
    m.KERNEL.name: m.KERNEL for m in (compiled, self_titans, token, short_convolution, ttt, sweep)
}
PACKAGE = Path(compiled.__file__).parents[2]
each = pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES)
KERNEL = short_convolution.KERNEL
needs_compiler = pytest.mark.skipif(KERNEL.library() is None, reason="no C++ compiler here")


def fields_of(bridge: Bridge) -> list[tuple[str, str]]:
    """(name, type) of the fields of a struct, read from its C++ source or the header beside it."""
    beside = sorted(bridge.source.parent.glob("*.h"))
    for path in (bridge.source, *beside):
        text = re.sub(r"//.*", "", path.read_text())
        found = re.search(r"struct (?:Problem|Token) \{(.*?)\n\};", text, re.DOTALL)
        if found:
            break
    fields = []
    for kind, names in re.findall(r"(int64_t|double|void)([^;]*);", found[1]):
        for name in names.split(","):
            count = re.search(r"\[(\d+)\]", name)
            plain = re.search(r"(\w+)(\[\d+\])?$", name.strip())[1]
            what = "pointer" if "*" in name else kind
            several = [f"{plain}_{i}" for i in range(int(count[1]))] if count else [plain]
            fields += [(one, what) for one in several]
    return fields


@each
def test_struct_fields_match_the_source(bridge):
    ours = [(name, "int64_t") for name in bridge.integers]
    ours += [(name, "double") for name in bridge.numbers]
    ours += [(name, "pointer") for name in bridge.arrays]
    assert ours == fields_of(bridge)


def test_every_source_is_called_through_a_bridge():
    sources = {b.source for b in BRIDGES.values()}
    assert sources == set(PACKAGE.rglob("*.cpp"))
    users = [
        p for p in PACKAGE.rglob("*.py") if re.search(r"ctypes\.CDLL|data_ptr\(\)\)", p.read_text())
    ]
    allowed = {"core/bridge.py", "core/native.py", "core/allocator.py"}
    assert {str(p.relative_to(PACKAGE)) for p in users} <= allowed


@needs_compiler
@each
def test_library_with_another_layout_is_refused(bridge, monkeypatch):
    assert bridge.library() is not None
    for what in ("bytes", "version", "tokens"):
        other = {**bridge.layout, what: bridge.layout[what] + 1}
        monkeypatch.setattr(bridge, "layout", other)
        monkeypatch.setattr(bridge, "_known", None)
        with pytest.raises(RuntimeError, match=f"'{what}'"):
            bridge.library()
        monkeypatch.undo()


def given(**changes) -> dict:
    x = torch.zeros(2, 5, 3)
    tensors = {"x": x, "tail": x[:, :2].clone(), "weight": torch.zeros(3, 3), "y": x.clone()}
    return {**tensors, **changes}


@needs_compiler
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tail": torch.zeros(2, 3, 3)}, r"tail is \[2, 3, 3\]; expected \[batch=2, width-1"),
        ({"tail": None}, "tail is NoneType"),
        ({"y": torch.zeros(2, 5, 4)}, "y is"),
        ({"y": torch.zeros(2, 5, 3, dtype=torch.float64)}, "y is of dtype torch.float64, x of"),
        ({"y": torch.zeros(2, 3, 5).mT}, "y must be a contiguous torch.float32 tensor"),
        ({"x": torch.zeros(2, 5, 3, device="meta")}, "weight is on cpu, x on meta"),
        ({"starts": torch.zeros(2, 5, dtype=torch.int32)}, "starts is of dtype torch.int32"),
        ({n: torch.zeros_like(x).half() for n, x in given().items()}, "not compiled for"),
    ],
)
def test_arguments_are_checked_before_taking_addresses(changes, text):
    tensors = given(**changes)
    with pytest.raises(UserError, match=text):
        KERNEL.call("forward", tensors["x"].dtype, tensors, activation=1, pieces=1)


@needs_compiler
def test_column_lengths_are_checked():
    kernel, g = sweep.KERNEL, [torch.ones(3), torch.ones(2, 2)]
    assert kernel.columns["write"] == {x for x in ("size", "width", "kind", "g", "m", "p")}
    assert kernel.columns["look"] == {"size", "g"} and COLUMN not in kernel.works["look"].leaves
    with pytest.raises(UserError, match=r"m\[1\] is \[4\]; expected \[2, 2\]"):
        kernel.tensors(torch.float32, g=g, m=[torch.ones(3), torch.ones(4)])
    with pytest.raises(UserError, match="contiguous torch.float64"):
        kernel.tensors(torch.float64, g=g)
    columns = kernel.tensors(torch.float32, g=g) | kernel.whole(size=[3])
    with pytest.raises(UserError, match="size must have 2 items"):
        squares = torch.zeros(2, dtype=torch.float64)
        kernel.call("look", torch.float32, {**columns, "squares": squares}, count=2)
    with pytest.raises(UserError, match="do not split"):
        sweep.write(
            g, g, g, widths=[0, 3], kinds=["none", "unit"], squares=torch.zeros(2).double(),
            alpha=0.9, eta=0.5, lr=0.1, kept=1.0, maximize=False,
        )  # fmt: skip
