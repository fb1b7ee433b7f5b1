"""The fixed-share mixture against a loop over probabilities, and its regret bound."""

import math

import pytest
import torch
from tolerances import assert_close

from nestling.core.mixture import even, followed, regret, updated

SHARES = (0.0, 0.01, 0.3, 1.0)


def given(experts, tokens, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return -spread * torch.rand(experts, tokens, generator=generator, dtype=torch.float64)


def loop(log_p, share):
    count, weights, found = len(log_p), [1 / len(log_p)] * len(log_p), []
    for t in range(log_p.shape[1]):
        p = [math.exp(float(log_p[k, t])) for k in range(count)]
        total = sum(w * q for w, q in zip(weights, p, strict=True))
        found.append(total)
        posterior = [w * q / total for w, q in zip(weights, p, strict=True)]
        weights = [(1 - share) * w + share / count for w in posterior]
    return torch.tensor(found, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("experts", [1, 2, 5])
def test_mixture_matches_reference_loop(experts, share):
    log_p = given(experts, 40)
    mixed, weights = followed(log_p, share)
    expected, last = loop(log_p, share)
    assert_close(mixed.exp(), expected)
    assert_close(weights.exp(), last)
    assert float(weights.exp().sum()) == pytest.approx(1, rel=1e-12)


def test_single_expert_is_bitwise():
    log_p = given(1, 50)
    mixed, weights = followed(log_p)
    assert torch.equal(mixed, log_p[0]) and torch.equal(weights, even(1))


@pytest.mark.parametrize("share", SHARES)
def test_any_split_equals_the_whole(share):
    log_p = given(3, 60)
    whole, last = followed(log_p, share)
    parts, weights = [], None
    for piece in log_p.split([1, 0, 20, 39], dim=1):
        mixed, weights = followed(piece, share, weights)
        parts.append(mixed)
    assert torch.equal(torch.cat(parts), whole) and torch.equal(weights, last)
    weights = even(3)
    for row in log_p.T:
        weights = updated(weights, row, share)
    assert torch.equal(weights, last)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_within_the_regret_bound(seed, share):
    """The bound for every expert and for the best sequence with a given number of changes."""
    log_p = given(4, 80, seed, spread=8.0)
    log_p[seed, :50] += 2.0
    loss = -float(followed(log_p, share)[0].sum())
    best = {0: -log_p[:, 0]}  # by changes: the least loss of a sequence that ends at each expert
    for t in range(1, 80):
        best = {
            m: torch.minimum(
                best.get(m, torch.full((4,), math.inf, dtype=torch.float64)),
                _from_another(best[m - 1]) if m > 0 else torch.tensor(math.inf).double(),
            )
            - log_p[:, t]
            for m in range(min(t, 10) + 1)
        }
    for changes, ends in best.items():
        assert loss <= float(ends.min()) + regret(4, 80, share, changes) + 1e-9, changes


def _from_another(ends):
    return torch.stack([torch.cat([ends[:k], ends[k + 1 :]]).min() for k in range(len(ends))])


def test_regret_bound_is_tight():
    """With one good expert and useless others, the loss equals the bound."""
    log_p = torch.full((3, 30), -60.0, dtype=torch.float64)
    log_p[1] = -0.5
    loss = -float(followed(log_p, 0.1)[0].sum())
    assert loss == pytest.approx(15 + regret(3, 30, 0.1), abs=1e-9)


def test_weight_of_a_token_ignores_the_token():
    log_p = given(3, 20)
    other = log_p.clone()
    other[:, 12:] = -1.0
    assert torch.equal(followed(log_p)[0][:12], followed(other)[0][:12])
    assert not torch.equal(followed(log_p)[0][12:], followed(other)[0][12:])
