"""Writes of one pair into a linear memory: the Hebbian rule and the delta rule.

Letters: W linear memory [p, q] with output W k; k key [q]; v value [p]; g gradient of the output
[p]; eta strength of the write. All functions are pure.
"""

from jaxtyping import Float
from torch import Tensor


def hebbian(
    W: Float[Tensor, "*N p q"],
    k: Float[Tensor, "*N q"],
    v: Float[Tensor, "*N p"],
    eta: Tensor | float | int = 1.0,
) -> Float[Tensor, "*N p q"]:
    """W + eta v k^T: one gradient step on -<W k, v>. With v = -g this is gradient descent (Eq 9).

    >>> import torch
    >>> hebbian(torch.zeros(2, 2), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]))
    tensor([[3., 0.],
            [4., 0.]])
    """
    return W + eta * v[..., :, None] * k[..., None, :]


def delta(
    W: Float[Tensor, "*N p q"],
    k: Float[Tensor, "*N q"],
    v: Float[Tensor, "*N p"],
    eta: Tensor | float | int = 1.0,
) -> Float[Tensor, "*N p q"]:
    """W - eta (W k - v) k^T: one gradient step on |W k - v|^2 / 2."""
    return hebbian(W, k, v - (W @ k[..., None])[..., 0], eta)


def damped(
    eta: Float[Tensor, "*N"] | float | int, power: Float[Tensor, "*N"]
) -> Float[Tensor, "*N"]:
    """eta / (1 + eta |k|^2): the strength of the exact proximal write, for a key of any norm."""
    return eta / (1 + eta * power)
