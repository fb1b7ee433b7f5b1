"""How a write is made: the rules that memories of tokens and memories of gradients share.

Letters: W a linear memory [p, q] that answers W k; k a key [q], v a value [p]; g a gradient for the
answer [p]; G = g k^T a gradient for the weights [p, q]; m a momentum [p, q]; alpha retention (1
keeps all), eta the strength of a write. All are pure: nothing given is changed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.error import UserError

# X <- a X + (b A + c A^2) X with A = X X^T: Muon's, to singular values of 0.7 .. 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)
CUBIC = (1.5, -0.5, 0.0)
SMALLEST = 1e-7  # length below which a matrix counts as none


def hebbian(
    W: Float[Tensor, "*N p q"],
    k: Float[Tensor, "*N q"],
    v: Float[Tensor, "*N p"],
    eta: Tensor | float | int = 1.0,
) -> Float[Tensor, "*N p q"]:
    """W + eta v k^T: one gradient step on -<W k, v>. With v = -g it is gradient descent (Eq 9).

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
    """eta / (1 + eta |k|^2): the strength of the exact proximal write, for any length of k."""
    return eta / (1 + eta * power)


def dgd(
    W: Float[Tensor, "*N p q"], k: Float[Tensor, "*N q"], g: Float[Tensor, "*N p"], eta: float
) -> Float[Tensor, "*N p q"]:
    """Delta gradient descent: argmin over V of |V k + g|^2 / 2 + |V - W|^2 / (2 eta).

    W - eta' (W k + g) k^T with eta' = eta / (1 + eta |k|^2).

    Source: arXiv 2512.24695, Eq 56-57, 112-121. Deviates: eta' for any length of k (Sherman and
    Morrison); printed are the forms for length 1.
    """
    strength = damped(eta, k.square().sum(-1))
    return delta(W, k, -g, strength[..., None, None] if k.ndim > 1 else strength)


def dgd_rows(
    W: Float[Tensor, "*N p q"],
    G: Float[Tensor, "*N p q"],
    gram: Float[Tensor, "*N q q"],
    eta: float | int,
    scale: float | int = 1.0,
) -> Float[Tensor, "*N p q"]:
    """Delta gradient descent for many keys at once: (W - eta G)(I + eta scale gram)^-1.

    ``G`` is the sum (mean) of g k^T over them and ``gram`` the sum (mean) of k k^T: the argmin over
    V of <V, G> + scale tr(V gram V^T) / 2 + |V - W|^2 / (2 eta).

    Inputs so long that the identity is lost beside them are solved by eigenvalues, none of which
    can be below one; a UserError where one is no number.

    Source: as ``dgd``. Cost: time O(q^3 + p q^2).
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    system = eye + (eta * scale) * gram
    factor, wrong = torch.linalg.cholesky_ex(system)
    if not wrong.any():
        return torch.cholesky_solve((W - eta * G).mT, factor).mT
    if not system.isfinite().all():
        raise UserError(
            "delta gradient descent met inputs that are no number; take a lower learning rate"
        )
    values, vectors = torch.linalg.eigh(system.double())
    rows = (W - eta * G).double() @ vectors / values.clamp(min=1.0)[..., None, :]
    return (rows @ vectors.mT).to(W.dtype)


def momentum(m: Tensor, write: Tensor, alpha: float | int, eta: float | int = 1.0) -> Tensor:
    """alpha m + eta write: a memory that forgets at one rate (Eq 33)."""
    return alpha * m + eta * write


def inner_rows(m: Float[Tensor, "*N p q"], g: Float[Tensor, "*N p q"]) -> Float[Tensor, "*N p 1"]:
    """m.g of every row. A delta momentum in rows forgets this times g, each row a memory by itself.

    >>> inner_rows(torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [0, 0, 1]])).mT
    tensor([[6., 1.]])
    """
    return (m * g).sum(-1, keepdim=True)


def along_matrix(m: Float[Tensor, "*N p q"], G: Float[Tensor, "*N p q"]) -> Float[Tensor, "*N p q"]:
    """m G^T G: the gradient of |m G^T|^2 / 2, by the cheaper of its two orders.

    Cost: time O(p q min(p, q)).
    """
    return (m @ G.mT) @ G if G.shape[-2] <= G.shape[-1] else m @ (G.mT @ G)


def newton_schulz(
    x: Float[Tensor, "*N p q"],
    steps: int = 5,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    dtype: torch.dtype | None = None,
    smallest: float = SMALLEST,
) -> Float[Tensor, "*N p q"]:
    """Drive the singular values of x towards one, over its length first; zeros stay zeros.

    The length is sqrt(|x|^2 + smallest^2). Each step is X <- a X + (b A + c A^2) X with A = X X^T;
    of a tall x: X <- a X + X (b A + c A^2) with A = X^T X. Small singular values grow up to a^steps
    times, and rounding with them: to gather the polynomials of A first, at half the cost, loses
    another digit in float32. ``dtype`` is that of the steps and of the result (None: of x); a
    memory that is stepped with it may do with bfloat16, as Muon does.

    Source: arXiv 2512.24695, Eq 42-44; coefficients of Muon, as the paper names none. Deviates: Eq
    44 as printed is one step of size zeta on |O - g|^2 / 2 + |O^T O - I|^2 / 2, not on Eq 43.
    Cost: two products of the size of x and one of the shorter side's a step.

    >>> newton_schulz(torch.diag(torch.tensor([1.0, 0.1, 0.0]))).diag().round(decimals=2)
    tensor([0.7000, 0.7100, 0.0000])
    """
    length = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    scale = (length.square() + smallest**2).rsqrt()
    shape, dtype = x.shape, dtype or x.dtype
    x = x.to(dtype).reshape(-1, *shape[-2:]) * scale.to(dtype).reshape(-1, 1, 1)
    tall = shape[-2] > shape[-1]
    a, b, c = coefficients
    for _ in range(steps):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        # not transposed and back: a transposed result makes all that follows it slow
        x = torch.baddbmm(x, *((x, polynomial) if tall else (polynomial, x)), beta=a)
    return x.reshape(shape)
