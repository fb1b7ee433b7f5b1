"""What the Triton form covers; everything else is computed by the chunk form."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.gradient import wanted_twice

KEY = 128  # the widest key that a kernel holds whole
VALUE = 1024


def why_not(
    tokens: dict[str, Tensor], initial: Tensor | None = None, reset: Tensor | None = None
) -> str | None:
    """Why the Triton form does not take these inputs; None if it does.

    It takes q, k, w of one batch and length in float32, float16 or bfloat16, keys of up to 128 and
    values of up to 1024 numbers, and every option but one: a reset to an ``initial`` weight other
    than zero.
    """
    q, k, w = tokens["q"], tokens["k"], tokens["w"]
    if any(x.dtype == torch.float64 for x in tokens.values()):
        return "float64 has no tensor cores; the Triton form takes float32, float16 and bfloat16"
    if initial is not None and reset is not None:
        return "a reset to an initial weight that is given is left to the chunk form"
    if k.shape[-1] > KEY or w.shape[-1] > VALUE:
        return f"keys have at most {KEY} and values at most {VALUE} numbers in the Triton form"
    if not (k.shape[-1] and w.numel()) or q.device != w.device:
        return "nothing to compute, or tensors of several devices"
    return None


@cache
def installed() -> bool:
    """Whether Triton is there."""
    return find_spec("triton") is not None


def here(device: torch.device) -> bool:
    """Whether Triton is there and compiles for this device."""
    return device.type == "cuda" and installed()


def covers(
    form: str | None, given: dict[str, Tensor | None], initial: Tensor | None, reset: Tensor | None
) -> bool:
    """Whether the Triton form computes this; ``form`` as in ``momentum_gated_delta_rule``."""
    if form not in (None, "chunk", "triton"):
        raise UserError(f"form must be 'chunk', 'triton' or None, not {form!r}")
    tokens = {name: x for name, x in given.items() if x is not None}
    if form is None:
        usable = here(tokens["q"].device) and not wanted_twice()
        return usable and why_not(tokens, initial, reset) is None
    if form == "triton" and tokens["q"].shape[1]:
        if not installed():
            raise UserError("the Triton form needs the package triton; install nestling[kernels]")
        reason = why_not(tokens, initial, reset)
        if reason is not None:
            raise UserError(f"{reason}; take form='chunk'")
    return form == "triton"
