"""The inputs that the Triton form covers; the chunk form computes everything else."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.gradient import wanted_twice

KEY = 128  # the widest key that fits a kernel
VALUE = 1024


def why_not(
    tokens: dict[str, Tensor], initial: Tensor | None = None, reset: Tensor | None = None
) -> str | None:
    """The reason why the Triton form does not cover these inputs; None if it does.

    It covers q, k, w of the same batch size and length in float32, float16 or bfloat16, with keys
    of up to 128 and values of up to 1024 numbers, and every option except resets to an ``initial``
    weight.
    """
    q, k, w = tokens["q"], tokens["k"], tokens["w"]
    if any(x.dtype == torch.float64 for x in tokens.values()):
        return "float64 has no tensor cores; the Triton form takes float32, float16 and bfloat16"
    if initial is not None and reset is not None:
        return "the Triton form has no resets to an initial weight"
    if k.shape[-1] > KEY or w.shape[-1] > VALUE:
        return f"the Triton form takes keys of at most {KEY} and values of at most {VALUE} numbers"
    if not (k.shape[-1] and w.numel()) or q.device != w.device:
        return "the inputs are empty, or on several devices"
    return None


@cache
def installed() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def here(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this device."""
    return device.type == "cuda" and installed()


def covers(
    form: str | None, given: dict[str, Tensor | None], initial: Tensor | None, reset: Tensor | None
) -> bool:
    """Whether to use the Triton form; ``form`` as in ``momentum_gated_delta_rule``.

    Raises UserError if ``form`` is "triton" and it does not cover the inputs.
    """
    if form not in (None, "chunk", "triton"):
        raise UserError(f"form is {form!r}; give 'chunk', 'triton' or None")
    tokens = {name: x for name, x in given.items() if x is not None}
    if form is None:
        usable = here(tokens["q"].device) and not wanted_twice()
        return usable and why_not(tokens, initial, reset) is None
    if form == "triton" and tokens["q"].shape[1]:
        if not installed():
            raise UserError("form='triton' needs triton: pip install 'nestling[kernels]'")
        reason = why_not(tokens, initial, reset)
        if reason is not None:
            raise UserError(f"{reason}; use form='chunk'")
    return form == "triton"
