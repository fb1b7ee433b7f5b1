"""Polynomial features of keys and queries."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Polynomial(nn.Module):
    """All monomials of degree up to p, weighted so that phi(x) . phi(y) = sum_r a_r^2 (x . y)^r.

    The coefficients a_r are learned, start at those of the exponential, 1 / sqrt(r!), and are
    normalised to a unit vector, so that phi of a unit vector has unit length.

    Source: arXiv 2505.23735, section 3.1 and Eq 21-22. Deviates: equal monomials of the tensor
    power are merged into one feature; the unit length.
    Cost: binomial(D + p, p) features of D numbers.

    >>> phi = Polynomial(2).requires_grad_(False)
    >>> phi.init_weights()
    >>> phi(torch.tensor([[1.0, 0.0]])).square().sum().item()
    1.0
    """

    def __init__(self, degree: int):
        super().__init__()
        self.degree = degree
        self.degree_weight = nn.Parameter(torch.empty(degree + 1))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set the coefficients to those of the exponential."""
        starts = [1 / math.sqrt(math.factorial(r)) for r in range(self.degree + 1)]
        self.degree_weight.copy_(torch.tensor(starts))

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """The features, by degree."""
        scales = self.degree_weight.to(x.dtype)
        scales = scales / scales.norm()
        found = [torch.ones_like(x[..., :1]) * scales[0]]
        places = torch.arange(x.shape[-1], device=x.device)
        for degree in range(1, self.degree + 1):
            chosen = torch.combinations(places, degree, with_replacement=True).view(-1, degree)
            repeats = (chosen[..., None] == places).sum(1).to(x.dtype)
            # how many entries of the tensor power are this monomial
            equal = math.lgamma(degree + 1) - torch.lgamma(repeats + 1).sum(-1)
            found.append(x[..., chosen].prod(-1) * (scales[degree] * (equal / 2).exp()))
        return torch.cat(found, dim=-1)


def width(size: int, degree: int) -> int:
    """The number of features of a vector of this size; degree 1 is the vector itself."""
    return size if degree == 1 else math.comb(size + degree, degree)
