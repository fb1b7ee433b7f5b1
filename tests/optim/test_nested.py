"""Nested levels in training (regime R2): reset exactly when the next slower level is written."""

import copy

import pytest
import torch
from torch import nn

from nestling.core.error import UserError
from nestling.optim import Leveled
from nestling.optim.build import build, optimizer_names

SHARE = 0.25
TOKENS = 8  # of a step


class Chain(nn.Module):
    """Three maps in series, fast to slow."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.ModuleList(nn.Linear(4, 4, dtype=torch.float64) for _ in range(3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def gradients(self, step):
        """The gradients of one batch."""
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(2, 16, 4, generator=generator, dtype=torch.float64)
        for module in self.maps:
            x = module(x).tanh()
        (x - y).square().mean().backward()

    def weights(self, level):
        return [p.detach().clone() for p in self.maps[level].parameters()]


PERIODS = (8, 16, 48)  # one step, two, six


def group(chain, level, share=None):
    found = {"params": list(chain.maps[level].parameters()), "period": PERIODS[level]}
    return found | ({} if share is None else {"share": share})


def leveled(chain, shares=(SHARE, SHARE, None), name="adamw", lr=0.05, max_norm=1.0):
    groups = [group(chain, level, share) for level, share in enumerate(shares)]
    return Leveled(build(name, chain, groups, lr=lr), tokens_per_step=TOKENS, max_norm=max_norm)


def drive(chain, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        chain.gradients(step)
        optimizer.step()


@pytest.mark.parametrize("name", optimizer_names())
def test_resets_match_reference_loop(name):
    """Each level separately until the slower one is written; then fresh moments from the moved
    start.
    """
    chain, twin = Chain(), Chain()
    optimizer = leveled(chain, name=name)

    def alone(level):
        inner = build(name, twin, [group(twin, level)], lr=0.05)
        return Leveled(inner, tokens_per_step=TOKENS, max_norm=1.0)

    own = [alone(level) for level in range(3)]
    starts = [twin.weights(level) for level in range(3)]
    for step in range(1, 14):
        drive(chain, optimizer, [step])
        for each in own:
            each.zero_grad()
        twin.gradients(step)
        for each in own:
            each.step()
        for level, slower in ((0, 16), (1, 48)):
            if step * TOKENS % slower == 0:
                with torch.no_grad():
                    pairs = zip(starts[level], twin.maps[level].parameters(), strict=True)
                    for number, (start, value) in enumerate(pairs):
                        starts[level][number] = start + SHARE * (value - start)
                        value.copy_(starts[level][number])
                own[level] = alone(level)
        for one, other in zip(chain.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert all(not torch.equal(a, b) for a, b in zip(starts[0], Chain().weights(0), strict=True))


def test_resets_only_at_multiples_of_the_slower_period():
    """Against the same optimizer without shares, loaded with its state before every step."""
    chain = Chain()
    optimizer = leveled(chain)
    for step in range(1, 14):
        twin = copy.deepcopy(chain)
        free = leveled(twin, shares=(None,) * 3)
        free.load_state_dict(copy.deepcopy(without_shares(optimizer.state_dict())))
        drive(chain, optimizer, [step])
        drive(twin, free, [step])
        for level, slower in ((0, 16), (1, 48), (2, None)):
            equal = all(map(torch.equal, chain.weights(level), twin.weights(level)))
            reset = slower is not None and step * TOKENS % slower == 0
            assert equal != reset, (step, level)
            moments = [optimizer.state.get(p) for p in chain.maps[level].parameters()]
            # moments are there from the first write since the last reset
            since = step * TOKENS % slower if slower else step * TOKENS
            assert all(bool(state) == (since >= PERIODS[level]) for state in moments)


def without_shares(state):
    for options in state["inner"]["param_groups"]:
        options.pop("share", None)
    return state


@pytest.mark.parametrize("cut", range(1, 8))
def test_state_dict_resumes_bitwise(cut):
    chain = Chain()
    optimizer = leveled(chain)
    drive(chain, optimizer, range(cut))
    twin = copy.deepcopy(chain)
    other = leveled(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, each in ((chain, optimizer), (twin, other)):
        drive(model, each, range(cut, 14))
    assert all(map(torch.equal, chain.parameters(), twin.parameters()))


@pytest.mark.parametrize("name", optimizer_names())
def test_learning_rate_zero_keeps_weights(name):
    chain = Chain()
    drive(chain, leveled(chain, name=name, lr=0.0), range(13))
    assert all(map(torch.equal, chain.parameters(), Chain().parameters()))


def test_share_zero_restores_start_and_share_one_clears_moments_only():
    zero, one, never = Chain(), Chain(), Chain()
    for chain, shares in ((zero, (0, 0, None)), (one, (1, 1, None)), (never, (None,) * 3)):
        drive(chain, leveled(chain, shares, "sgd"), range(12))
    assert all(
        map(torch.equal, zero.weights(0) + zero.weights(1), Chain().weights(0) + Chain().weights(1))
    )
    assert not torch.equal(zero.weights(2)[0], Chain().weights(2)[0])
    assert all(map(torch.equal, one.parameters(), never.parameters()))


def test_weights_loaded_before_the_first_step_are_the_start():
    chain = Chain()
    optimizer = leveled(chain, (0, None, None))
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(1.0)
    wanted = chain.weights(0)
    drive(chain, optimizer, range(2))
    assert all(map(torch.equal, chain.weights(0), wanted))


def test_start_of_bfloat16_weights_is_float32():
    """A share of a small movement would be lost in bfloat16."""
    weight, slow = (nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2))
    groups = [
        {"params": [weight], "period": 8, "share": 0.1},
        {"params": [slow], "period": 16},
    ]
    optimizer = Leveled(torch.optim.SGD(groups, lr=1.0), tokens_per_step=8)
    for _ in range(2):
        weight.grad = torch.full_like(weight, 0.005)
        optimizer.step()
    (start,) = optimizer.state_dict()["starts"].values()
    assert start.dtype == torch.float32
    # bfloat16 below one has steps of 2^-8: two writes moved it by 2^-7
    torch.testing.assert_close(start, torch.full((4,), 1 - 0.1 * 2.0**-7))


@pytest.mark.parametrize(
    ("shares", "tokens", "message"),
    [
        ((1.5, None, None), 8, "fraction"),
        ((-0.5, None, None), 8, "fraction"),
        ((None, None, 0.1), 8, "period 48 is the slowest"),
        ((None, 0.1, None), 10, "2 steps .period 16. do not divide"),
    ],
)
def test_invalid_shares_are_refused(shares, tokens, message):
    chain = Chain()
    groups = [group(chain, level, share) for level, share in enumerate(shares)]
    with pytest.raises(UserError, match=message) as caught:
        Leveled(torch.optim.SGD(groups, lr=0.1), tokens_per_step=tokens)
    assert "\n" not in str(caught.value)
