"""The tolerances fail when they should."""

import pytest
import torch
from tolerances import assert_close, relative_rms


@pytest.mark.parametrize(
    ("dtype", "near", "far"),
    [(torch.float64, 1e-11, 1e-7), (torch.float32, 1e-6, 1e-4), (torch.bfloat16, 1e-3, 5e-2)],
)
def test_within_tolerance_passes_and_beyond_fails(dtype, near, far):
    expected = torch.linspace(1, 2, 50, dtype=torch.float64)
    assert_close((expected * (1 + near)).to(dtype), expected.to(dtype))
    with pytest.raises(AssertionError):
        assert_close((expected * (1 + far)).to(dtype), expected.to(dtype))


def test_nan_is_never_close():
    with pytest.raises(AssertionError):
        assert_close(torch.tensor([float("nan")]), torch.tensor([1.0]))


def test_relative_rms_is_relative_and_empty_is_equal():
    assert relative_rms(torch.tensor([2.2]), torch.tensor([2.0])) == pytest.approx(0.1, rel=1e-5)
    assert relative_rms(torch.ones(2, 0), torch.ones(2, 0)) == 0.0
