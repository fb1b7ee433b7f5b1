"""Leveled: an optimizer with a period per group (CMS regime R2)."""

import copy
import pickle

import pytest
import torch
from torch import nn

from nestling.core.error import UserError
from nestling.optim import Leveled, NonlinearMomentum


def two_parameters() -> tuple[nn.Parameter, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64)) for _ in range(2)
    )


def gradients(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 4, 3, generator=generator, dtype=torch.float64) for _ in range(count)]


def leveled(fast, slow, *, period=24, tokens_per_step=8, max_norm=None, inner=torch.optim.AdamW):
    groups = [
        {"params": [fast], "name": "fast", "period": 8},
        {"params": [slow], "name": "slow", "period": period},
    ]
    return Leveled(inner(groups, lr=0.1), tokens_per_step=tokens_per_step, max_norm=max_norm)


def drive(optimizer, fast, slow, steps):
    """Feed gradients as in a training loop; returns the groups that fired at each step."""
    fired = []
    for gradient in steps:
        optimizer.zero_grad()
        fast.grad, slow.grad = gradient[0].clone(), gradient[1].clone()
        optimizer.step()
        fired.append(optimizer.fired)
    return fired


@pytest.mark.parametrize("inner", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_slow_group_takes_the_mean_gradient_at_its_period(inner):
    fast, slow = two_parameters()
    plain = [nn.Parameter(p.detach().clone()) for p in (fast, slow)]
    optimizer = leveled(fast, slow, inner=inner)
    given = gradients(6)
    fired = drive(optimizer, fast, slow, given)
    assert [names == ("fast", "slow") for names in fired] == [False, False, True] * 2
    every, third = inner([plain[0]], lr=0.1), inner([plain[1]], lr=0.1)
    for index, gradient in enumerate(given):
        plain[0].grad = gradient[0]
        every.step()
        if index % 3 == 2:
            plain[1].grad = torch.stack([g[1] for g in given[index - 2 : index + 1]]).mean(0)
            third.step()
    torch.testing.assert_close(fast, plain[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(slow, plain[1], rtol=1e-9, atol=1e-10)


def test_weights_and_moments_are_unchanged_between_firings():
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow)
    drive(optimizer, fast, slow, gradients(3))
    weights, moments = slow.detach().clone(), copy.deepcopy(optimizer.state[slow])
    drive(optimizer, fast, slow, gradients(2))
    assert torch.equal(slow, weights)
    for name, value in moments.items():
        assert torch.equal(optimizer.state[slow][name], value)


@pytest.mark.parametrize(("period", "steps"), [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_period_is_rounded_up_to_whole_steps(period, steps):
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow, period=period)
    assert optimizer.periods() == [1, steps]
    fired = drive(optimizer, fast, slow, gradients(2 * steps))
    assert [i for i, names in enumerate(fired) if "slow" in names] == [steps - 1, 2 * steps - 1]


def test_zero_grad_of_the_model_keeps_gathered_gradients():
    fast, slow = two_parameters()
    twin_fast, twin_slow = (nn.Parameter(p.detach().clone()) for p in (fast, slow))
    one, other = leveled(fast, slow), leveled(twin_fast, twin_slow)
    given = gradients(3)
    drive(one, fast, slow, given)
    for gradient in given:
        twin_fast.grad, twin_slow.grad = gradient[0].clone(), gradient[1].clone()
        other.step()
        for parameter in (twin_fast, twin_slow):
            parameter.grad = None
    assert torch.equal(slow, twin_slow)


def test_clipping_applies_to_each_level_mean_separately():
    fast, slow = two_parameters()
    start = slow.detach().clone()
    optimizer = leveled(fast, slow, period=16, max_norm=1.0, inner=torch.optim.SGD)
    big = torch.full((4, 3), 100.0, dtype=torch.float64)
    for sign in (1.0, -0.999):
        fast.grad, slow.grad = big.clone(), sign * big
        optimizer.step()
    # the two gradients nearly cancel; clipping each before the mean would have left them whole
    mean = 100.0 * (1 - 0.999) / 2
    torch.testing.assert_close(slow, start - 0.1 * mean, rtol=1e-9, atol=1e-10)
    fast.grad, slow.grad = None, big.clone()
    optimizer.step()
    slow.grad = big.clone()
    before = slow.detach().clone()
    optimizer.step()
    assert float((slow.detach() - before).norm()) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_state_dict_round_trip_mid_period_is_exact(cut):
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow, max_norm=1.0)
    given = gradients(7)
    drive(optimizer, fast, slow, given[:cut])
    twins = [nn.Parameter(p.detach().clone()) for p in (fast, slow)]
    twin = leveled(*twins, max_norm=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fired = drive(optimizer, fast, slow, given[cut:])
    assert drive(twin, *twins, given[cut:]) == fired
    assert torch.equal(fast, twins[0]) and torch.equal(slow, twins[1])


def test_without_periods_bitwise_equal_to_inner_optimizer():
    fast, slow = two_parameters()
    twins = [nn.Parameter(p.detach().clone()) for p in (fast, slow)]
    given = gradients(5)
    drive(leveled(fast, slow, period=0), fast, slow, given)
    plain = torch.optim.AdamW(twins, lr=0.1)
    for gradient in given:
        twins[0].grad, twins[1].grad = gradient[0].clone(), gradient[1].clone()
        plain.step()
    assert torch.equal(fast, twins[0]) and torch.equal(slow, twins[1])


def test_works_with_torch_scheduler():
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    drive(optimizer, fast, slow, gradients(1))
    scheduler.step()
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.05, 0.05]


def test_a_missing_gradient_counts_as_zero():
    fast, slow = two_parameters()
    start = slow.detach().clone()
    optimizer = leveled(fast, slow, period=16, inner=torch.optim.SGD)
    slow.grad = torch.ones_like(slow)
    optimizer.step()
    optimizer.step()
    torch.testing.assert_close(slow, start - 0.05, rtol=1e-9, atol=1e-10)


def test_add_param_group():
    fast, slow = two_parameters()
    optimizer = Leveled(torch.optim.SGD([fast], lr=0.1), tokens_per_step=8)
    optimizer.add_param_group({"params": [slow], "period": 16, "name": "slow"})
    assert optimizer.periods() == [1, 2] and len(optimizer.inner.param_groups) == 2


def test_closure_runs_with_gradients_enabled():
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow)

    def closure():
        optimizer.zero_grad()
        loss = (fast**2).sum()
        loss.backward()
        return loss

    before = float((fast.detach() ** 2).sum())
    assert float(optimizer.step(closure).detach()) == pytest.approx(before)
    assert float((fast.detach() ** 2).sum()) < before


def test_zero_tokens_per_step_is_refused():
    with pytest.raises(UserError, match="tokens_per_step"):
        Leveled(torch.optim.SGD(two_parameters(), lr=0.1), tokens_per_step=0)


def test_deepcopy_mid_period_continues_identically():
    """Copied or pickled with its parameters, accumulated gradients, clocks and starts."""
    for take in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        fast, slow = two_parameters()
        groups = [
            {"params": [fast], "name": "fast", "period": 8, "share": 0.5},
            {"params": [slow], "name": "slow", "period": 24},
        ]
        inner = torch.optim.AdamW(groups, lr=0.1)
        optimizer = Leveled(inner, tokens_per_step=8, max_norm=1.0)
        given = gradients(10)
        drive(optimizer, fast, slow, given[:4])
        other, fast_too, slow_too = take((optimizer, fast, slow))
        assert other.inner is not inner and other.fired == optimizer.fired
        assert drive(other, fast_too, slow_too, given[4:]) == drive(
            optimizer, fast, slow, given[4:]
        )
        assert torch.equal(fast, fast_too) and torch.equal(slow, slow_too)
        assert fast_too is other.param_groups[0]["params"][0]


def test_state_dict_hooks_run():
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow)
    drive(optimizer, fast, slow, gradients(2))
    told = []
    optimizer.register_state_dict_pre_hook(lambda o: told.append(o is optimizer))
    optimizer.register_state_dict_post_hook(lambda _, state: state.update(note="here"))
    optimizer.register_state_dict_post_hook(lambda _, state: {"kept": state})
    saved = optimizer.state_dict()
    assert told == [True] and saved["kept"]["note"] == "here"
    other = leveled(*two_parameters())
    other.register_load_state_dict_pre_hook(lambda _, state: state["kept"])
    other.register_load_state_dict_post_hook(lambda o: told.append(o is other))
    other.load_state_dict(saved)
    assert told == [True, True] and set(saved) == {"kept"}
    assert other.next_firing() == optimizer.next_firing() == [True, True]


def test_momentum_schedulers_reach_the_inner_optimizer():
    fast, slow = two_parameters()
    optimizer = leveled(fast, slow, inner=NonlinearMomentum)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6)
    seen = []
    for gradient in gradients(5):
        drive(optimizer, fast, slow, [gradient])
        seen.append(optimizer.inner.param_groups[1]["alpha"])
        scheduler.step()
    assert seen[0] == 0.95 and 0.85 <= min(seen) < 0.86
