"""The short convolution in torch: for accelerators, single tokens, or without a compiler."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def plain(
    x: Float[Tensor, "B T C"],
    tail: Float[Tensor, "B W C"],
    weight: Float[Tensor, "C N"],
    bias: Float[Tensor, " C"] | None,
    starts: Int[Tensor, "B T"] | None,
    activation: bool,
) -> Float[Tensor, "B T C"]:
    """The same as ``convolve`` in this folder."""
    length, before = x.shape[1], weight.shape[1] - 1
    padded = torch.cat([tail, x], dim=1)
    if starts is None and length == 1:
        y = (padded * weight.mT).sum(1, keepdim=True)
    elif starts is None:
        y = functional.conv1d(padded.mT, weight[:, None], groups=len(weight)).mT
    else:
        index = torch.arange(length, device=x.device)
        y = x * weight[:, -1]
        for lag in range(1, before + 1):
            inside = (index - lag >= starts)[..., None]
            shifted = padded[:, before - lag : before - lag + length]
            y = y + torch.where(inside, shifted, 0.0) * weight[:, -1 - lag]
    y = y if bias is None else y + bias
    return functional.silu(y) if activation else y
