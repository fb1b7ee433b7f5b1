"""The tolerances of all tests."""

import torch
from torch import Tensor, nn

FLOAT64_RTOL = 1e-9
FLOAT64_ATOL = 1e-10
FLOAT32_RELATIVE_RMS = 1e-5
BFLOAT16_RELATIVE_RMS = 2e-2


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference relative to the expected values; 0 for empty tensors."""
    assert actual.shape == expected.shape, f"shapes {actual.shape} and {expected.shape}"
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.square().mean().sqrt().clamp_min(1e-30)
    return ((actual - expected).square().mean().sqrt() / scale).item()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Fail unless equal to within the tolerance of the coarser dtype of the two."""
    dtypes = {actual.dtype, expected.dtype}
    if dtypes == {torch.float64}:
        torch.testing.assert_close(actual, expected, rtol=FLOAT64_RTOL, atol=FLOAT64_ATOL)
    elif not (actual.is_floating_point() and expected.is_floating_point()):
        assert torch.equal(actual, expected), f"{actual} differs from {expected}"
    else:
        coarse = bool(dtypes & {torch.bfloat16, torch.float16})
        limit = BFLOAT16_RELATIVE_RMS if coarse else FLOAT32_RELATIVE_RMS
        error = relative_rms(actual, expected)
        # a NaN compares false with everything: the test is "not within", never "beyond"
        assert error <= limit, f"relative RMS {error:.3g} is not within {limit:g}"


def same_by_threads(module: nn.Module, one: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """The first name whose values differ bitwise, "" if none does.

    But for weights of maps: how torch's own products sum their gradients may depend on the number
    of threads, which is as rounding.
    """
    maps = {f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    for name, value in one.items():
        rounded = name in maps and relative_rms(value, other[name]) < FLOAT32_RELATIVE_RMS
        if not (rounded or torch.equal(value, other[name])):
            return name
    return ""
