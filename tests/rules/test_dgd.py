"""Rules with badly scaled inputs."""

import pytest
import torch

from nestling.core.error import UserError
from nestling.rules.dgd import dgd_rows


def test_dgd_with_very_long_inputs():
    generator = torch.Generator().manual_seed(0)
    x = 1e6 * torch.randn(6, 40, generator=generator)
    W, G = (torch.randn(3, 40, generator=generator) for _ in range(2))
    gram = x.mT @ x
    assert torch.linalg.cholesky_ex(torch.eye(40) + gram)[1].any()  # float32 alone cannot
    found = dgd_rows(W, G, gram, 1.0)
    assert found.dtype == torch.float32
    # everything along the inputs is erased, and nothing grows
    inside = torch.linalg.svd(x, full_matrices=False).Vh
    assert (found @ inside.mT).norm() < 1e-3 * (W - G).norm()
    assert found.norm() <= (W - G).norm() * 1.001
    with pytest.raises(UserError, match="lower learning rate"):
        dgd_rows(W, G, gram * torch.nan, 1.0)
