"""The choice of the recurrence's form, also without Triton."""

import pytest
import torch

from nestling.core.error import UserError
from nestling.ops.momentum_gated_delta_rule import OP, cover, momentum_gated_delta_rule

FLAGS = {"initial": torch.zeros(2, 4, 5), "reset": torch.zeros(2, 6, dtype=torch.bool)}


def tokens_of(dtype=torch.float32, **sizes):
    return OP.inputs(0, length=6, dtype=dtype, **sizes)


@pytest.mark.parametrize(
    ("tokens", "flags", "reason"),
    [
        (tokens_of(), {}, None),
        (tokens_of(momentum=False, erase_key=True), {"reset": FLAGS["reset"]}, None),
        (tokens_of(), {"initial": FLAGS["initial"]}, None),
        (tokens_of(key=128, value=1024), {}, None),
        (tokens_of(), FLAGS, "initial weight"),
        (tokens_of(torch.float64), {}, "float64"),
        (tokens_of(key=129), {}, "at most 128"),
        (tokens_of(value=1025), {}, "at most 1024"),
        (tokens_of(batch=0), {}, "inputs are empty"),
    ],
)
def test_triton_coverage(tokens, flags, reason):
    found = cover.why_not(tokens, **flags)
    assert found is None if reason is None else reason in found


def test_uncovered_calls_fall_back_to_chunk(monkeypatch):
    """With kernels on every device, a reset to an initial weight still uses the chunk form."""
    monkeypatch.setattr(cover, "here", lambda device: True)
    tokens = tokens_of()
    y, end = momentum_gated_delta_rule(**tokens, **FLAGS)
    want, want_end = OP.chunk(**tokens, **FLAGS)
    assert torch.equal(y, want) and torch.equal(end.weight, want_end.weight)


def test_forced_form_is_used_or_refused(monkeypatch):
    with pytest.raises(UserError, match="'chunk', 'triton' or None"):
        momentum_gated_delta_rule(**tokens_of(), form="cuda")
    monkeypatch.setattr(cover, "installed", lambda: False)
    with pytest.raises(UserError, match=r"install .nestling\[kernels\]"):
        OP.triton(**tokens_of())
    monkeypatch.setattr(cover, "installed", lambda: True)
    with pytest.raises(UserError, match="float64.*form='chunk'"):
        OP.triton(**tokens_of(torch.float64))


def test_cpu_uses_chunk_form():
    assert not cover.here(torch.device("cpu"))
