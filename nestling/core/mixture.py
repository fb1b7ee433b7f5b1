"""A mixture of predictors, weighted by how well each has predicted so far: fixed share.

Letters: p_k,t probability of token t under expert k of K; w_k,t weight of expert k before it, with
sum 1 over k; a share.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SHARE = 0.01


def even(experts: int, device: torch.device | str | None = None) -> Float[Tensor, " K"]:
    """The log-weights before the first token: uniform."""
    return torch.full((experts,), -math.log(experts), dtype=torch.float64, device=device)


def updated(
    log_weights: Float[Tensor, " K"], log_p: Float[Tensor, " K"], share: float = SHARE
) -> Float[Tensor, " K"]:
    """The log-weights after a token, from its log-probability under each expert.

    ``w_k,t+1 = (1 - a) w_k,t p_k,t / sum_j w_j,t p_j,t + a / K``
    """
    if len(log_weights) == 1 or share == 1:
        return even(len(log_weights), log_weights.device)
    after = torch.log_softmax(log_weights + log_p.to(log_weights.dtype), 0)
    if share == 0:
        return after
    given = torch.full_like(after, math.log(share / len(after)))
    return torch.logaddexp(after + math.log1p(-share), given)


def followed(
    log_p: Float[Tensor, "K T"],
    share: float = SHARE,
    log_weights: Float[Tensor, " K"] | None = None,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " K"]]:
    """The log-probability of each of T tokens under the mixture, and the log-weights after them.

    ``p_t = sum_k w_k,t p_k,t``, with the weights of ``updated``, in float64. Over T tokens the loss
    in nats is at most that of the best expert plus ``ln K - (T - 1) ln(1 - a + a / K)``. It is also
    at most that of the best sequence of experts with m changes plus ``ln K - m ln(a / K) - (T - 1
    - m) ln(1 - a + a / K)``. With one expert the mixture equals it. Causal: the weights for a token
    do not depend on it.

    Source: Herbster and Warmuth, *Tracking the best expert*, Machine Learning 32, 1998 (fixed
    share, here for the logarithmic loss). Deviates: the share of an expert goes to all experts,
    including itself.
    Cost: O(K T) time.
    """
    weights = even(len(log_p), log_p.device) if log_weights is None else log_weights
    log_p = log_p.to(weights.dtype)
    if len(log_p) == 1:
        return log_p[0], weights
    rows, found = log_p.unbind(1), []
    for row in rows:
        found.append(torch.logsumexp(weights + row, 0))
        weights = updated(weights, row, share)
    mixed = torch.stack(found) if found else weights.new_zeros(0)
    return mixed, weights


def regret(experts: int, tokens: int, share: float = SHARE, changes: int = 0) -> float:
    """The regret bound of ``followed``, in nats, against a sequence with ``changes`` changes."""
    if tokens == 0:
        return 0.0
    stay = -math.log(1 - share + share / experts)
    change = -math.log(share / experts) if changes else 0.0
    return math.log(experts) + changes * change + (tokens - 1 - changes) * stay
