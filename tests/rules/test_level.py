"""A level as a value: when and how it is written, and its bounds."""

import pytest
import torch
from tolerances import assert_close
from variation import unshifted

from nestling.core.error import UserError
from nestling.rules import RULES, RuleOptions
from nestling.rules.level import (
    CMSLevel,
    check_periods,
    due,
    gather,
    new_level,
    restart,
    weights_of,
    write,
)
from nestling.rules.newton_schulz import newton_schulz

ROWS, OUT, IN = 2, 3, 4
every_rule = pytest.mark.parametrize("rule", RULES)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return drawn_by(torch.Generator().manual_seed(seed), *shape)


def drawn_by(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def start_of() -> tuple[torch.Tensor, ...]:
    return draw(OUT, IN, seed=1), draw(OUT, seed=2)


def free(period: int = 4, **options) -> CMSLevel:
    """A level without bounds."""
    return CMSLevel(period=period, **{"lr": 0.1, "clip": None, "trust": None} | options)


def tokens(count: int, seed: int = 3):
    """Inputs and gradients of outputs of a linear map, token by token: [T, B, *]."""
    return draw(count, ROWS, IN, seed=seed), draw(count, ROWS, OUT, seed=seed + 1)


def read(level, start, state, x, g):
    """Read some tokens of a linear map with a bias, and write complete periods."""
    one = torch.full((ROWS,), len(x))
    weight, bias = torch.einsum("tbo,tbi->boi", g, x), g.sum(0)
    gram = torch.einsum("tbi,tbj->bij", x, x)
    extra = {"gram": (gram, gram.new_zeros(ROWS, 0, 0))} if level.rule == "dgd" else {}
    state = gather(state, (weight, bias), seen=one, **extra)
    return write(level, start, state)


def fresh(level, start):
    return new_level(level, start, ROWS, (IN, 0))


def leaves(state):
    for part in state:
        yield from leaves(part) if isinstance(part, tuple) else (part,)


@every_rule
def test_weights_change_only_at_multiples_of_the_period(rule):
    level, start = free(rule=rule), start_of()
    state, (x, g) = fresh(level, start), tokens(12)
    for count in range(1, 13):
        before = weights_of(start, state)
        state = read(level, start, state, x[count - 1 : count], g[count - 1 : count])
        changed = [
            not torch.equal(a, b) for a, b in zip(before, weights_of(start, state), strict=True)
        ]
        assert changed == [count % 4 == 0] * 2
        assert state.writes.tolist() == [count // 4] * 2


@every_rule
def test_any_split_equals_the_whole(rule):
    level, start = free(rule=rule), start_of()
    x, g = tokens(12)
    whole, pieces = fresh(level, start), fresh(level, start)
    for a in range(0, 12, 4):
        whole = read(level, start, whole, x[a : a + 4], g[a : a + 4])
    for a, b in ((0, 1), (1, 4), (4, 6), (6, 7), (7, 8), (8, 12)):
        pieces = read(level, start, pieces, x[a:b], g[a:b])
    for one, other in zip(leaves(whole), leaves(pieces), strict=True):
        assert_close(one.double(), other.double())


@every_rule
def test_rate_zero_changes_nothing(rule):
    level, start = free(rule=rule, lr=0.0), start_of()
    state, (x, g) = fresh(level, start), tokens(8)
    for a in (0, 4):
        state = read(level, start, state, x[a : a + 4], g[a : a + 4])
    assert state.writes.tolist() == [2, 2]
    assert all(
        torch.equal(s.expand_as(w), w) for s, w in zip(start, weights_of(start, state), strict=True)
    )


@every_rule
def test_rows_are_independent(rule):
    level, start = free(rule=rule), start_of()
    x, g = tokens(8)
    other = g.clone()
    other[:, 1] = tokens(8, seed=5)[1][:, 1]
    states = []
    for gradients in (g, other):
        state = fresh(level, start)
        for a in (0, 4):
            state = read(level, start, state, x[a : a + 4], gradients[a : a + 4])
        states.append(weights_of(start, state))
    for one, changed in zip(*states, strict=True):
        assert torch.equal(one[0], changed[0])
        assert not torch.equal(one[1], changed[1])


@every_rule
def test_rules_descend(rule):
    """|W x - y|^2 / 2 over the same tokens falls below a fifth within sixty writes."""
    level = free(period=8, rule=rule, lr={"muon": 0.05, "m3": 0.05, "adam": 0.05}.get(rule, 0.1))
    # the rates are chosen for this problem
    start = drawn_by(unshifted(1), OUT, IN), drawn_by(unshifted(2), OUT)
    x, w, b = (
        drawn_by(unshifted(seed), *shape)
        for seed, shape in ((3, (8, ROWS, IN)), (7, (OUT, IN)), (8, (OUT,)))
    )
    target, state, losses = x @ w.T + b, fresh(level, start), []
    for _ in range(60):
        weight, bias = weights_of(start, state)
        error = torch.einsum("tbi,boi->tbo", x, weight) + bias - target
        losses.append(float(error.square().sum() / 2))
        state = read(level, start, state, x, error)
    # dgd converges between its start and the minimum, as derived
    assert losses[-1] < (0.6 if rule == "dgd" else 0.2) * losses[0]


def reference(rule: str, o: RuleOptions, eta: float, gradients, grams, moved_: torch.Tensor):
    """The published updates of one matrix, write by write."""
    m = v = slow = gathered_ = direction = torch.zeros_like(moved_)
    for n, (g, gram) in enumerate(zip(gradients, grams, strict=True), start=1):
        eye = torch.eye(IN, dtype=g.dtype)
        if rule == "gradient":
            step = g
        elif rule == "momentum":
            step = m = o.momentum * m + g
        elif rule == "delta_momentum":
            u = g / g.norm()
            step = m = m @ (o.momentum * eye - min(o.erase, o.momentum) * u.T @ u) + g
        elif rule == "muon":
            m = o.momentum * m + g
            step = newton_schulz(m)
        elif rule == "nonlinear_momentum":
            m = o.momentum * m + (1 - o.momentum) * g
            ahead = o.momentum * m + (1 - o.momentum) * g
            step = 0.2 * max(g.shape) ** 0.5 * newton_schulz(ahead)
        elif rule == "feature_momentum":
            step = m = o.momentum * m + g.sign() * g.abs().sqrt()
        elif rule == "dgd":
            moved_ = (moved_ - eta * g) @ torch.linalg.inv(eye + eta * o.erase * gram)
            continue
        else:
            m = o.momentum * m + (1 - o.momentum) * g
            v = o.square_momentum * v + (1 - o.square_momentum) * g * g
            mean, square = m / (1 - o.momentum**n), v / (1 - o.square_momentum**n)
            root = square.sqrt() + o.epsilon
            step = mean / root
            if rule == "elementwise_memory":
                step = square.sqrt() * mean / (square + 1e-16)
            if rule == "m3":
                step = (newton_schulz(mean) + o.slow_weight * direction) / root
                step = step / step.square().mean().sqrt()
                gathered_ = gathered_ + g
                if n % o.slow_period == 0:
                    mean_g = gathered_ / o.slow_period
                    slow = o.slow_momentum * slow + (1 - o.slow_momentum) * mean_g
                    direction, gathered_ = newton_schulz(slow), torch.zeros_like(g)
        moved_ = moved_ - eta * step
    return moved_


@every_rule
def test_equation_71_matches_reference_loop(rule):
    options = RuleOptions(slow_period=2) if rule == "m3" else RuleOptions()
    level, start = free(rule=rule, options=options), start_of()
    state, (x, g) = fresh(level, start), tokens(20)
    for count in range(20):
        state = read(level, start, state, x[count : count + 1], g[count : count + 1])
    for row in range(ROWS):
        means, grams = [], []
        for a in range(0, 20, 4):
            pairs = list(zip(g[a : a + 4, row], x[a : a + 4, row], strict=True))
            means.append(torch.stack([torch.outer(left, right) for left, right in pairs]).mean(0))
            grams.append(torch.stack([torch.outer(r, r) for _, r in pairs]).mean(0))
        expected = reference(rule, level.options, 0.1, means, grams, torch.zeros(OUT, IN).double())
        assert_close(state.moved[0][row], expected)


def test_dgd_minimises_its_proximal_problem():
    """Of sum |W x + g|^2 / 2 n + |W - W_0|^2 / 2 eta, W the whole weight."""
    level = free(rule="dgd", options=RuleOptions(erase_whole=True))
    start, (x, g) = start_of(), tokens(4)
    state = read(level, start, fresh(level, start), x, g)
    w = weights_of(start, state)[0][0]
    slope = (w - start[0]) / 0.1
    for i in range(4):
        slope = slope + torch.outer(w @ x[i, 0] + g[i, 0], x[i, 0]) / 4
    assert_close(slope, torch.zeros_like(slope))


def test_mean_is_over_gathered_gradients():
    level, start = free(), start_of()
    one, two = draw(ROWS, OUT, IN), draw(ROWS, OUT, seed=9)
    state = gather(
        fresh(level, start),
        (one, two),
        seen=torch.tensor([4, 4]),
        terms=torch.tensor([3.0, 2.0], dtype=torch.float64),
    )
    state = write(level, start, state)
    assert_close(state.moved[0], -0.1 * one / torch.tensor([3.0, 2.0]).double()[:, None, None])


def test_row_without_gradients_is_not_written():
    level, start = free(rule="momentum"), start_of()
    state = gather(
        fresh(level, start),
        (draw(ROWS, OUT, IN), draw(ROWS, OUT)),
        seen=torch.tensor([4, 3]),
        terms=torch.tensor([0.0, 3.0]),
    )
    assert due(level, state).tolist() == [False, False]
    assert write(level, start, state).writes.tolist() == [0, 0]


@every_rule
def test_bounds_hold_against_any_gradient(rule):
    """No input, however large or frequent, moves a level beyond its trust region."""
    start = start_of()
    length = sum(float(s.square().sum()) for s in start) ** 0.5
    level = CMSLevel(period=1, rule=rule, lr=10.0, clip=1e3, trust=0.25)
    state = fresh(level, start)
    for step in range(30):
        x, g = tokens(1, seed=step)
        state = read(level, start, state, x * 10.0 ** (step % 7), g * 10.0 ** (step % 5))
        reach = sum(x.flatten(1).square().sum(1) for x in state.moved).sqrt()
        assert (reach <= 0.25 * length * (1 + 1e-9)).all()
    assert (reach > 0.1 * length).any()


def test_clipping_uses_the_joint_norm():
    level, start = free(lr=1.0, clip=2.0), start_of()
    state, (x, g) = fresh(level, start), tokens(4)
    state = read(level, start, state, 100 * x, 100 * g)
    reach = sum(x.flatten(1).square().sum(1) for x in state.moved).sqrt()
    assert_close(reach, torch.full_like(reach, 2.0))


def test_nonfinite_gradient_changes_nothing():
    level, start = free(rule="adam"), start_of()
    state, (x, g) = fresh(level, start), tokens(8)
    g[1, 0, 0] = float("nan")
    state = read(level, start, state, x[:4], g[:4])
    assert state.writes.tolist() == [0, 1]
    assert not state.moved[0][0].any() and state.moved[0][1].any()
    # and the next period starts fresh
    state = read(level, start, state, x[4:], g[4:])
    assert state.writes.tolist() == [1, 2] and state.moved[0].isfinite().all()


@every_rule
def test_reset_rows_equal_fresh_rows(rule):
    level, start = free(rule=rule), start_of()
    state, (x, g) = fresh(level, start), tokens(6)
    state = read(level, start, read(level, start, state, x[:4], g[:4]), x[4:], g[4:])
    again = restart(state, torch.tensor([True, False]))
    for new, old, first in zip(*map(leaves, (again, state, fresh(level, start))), strict=True):
        assert torch.equal(new[0], first[0])
        assert torch.equal(new[1], old[1])


@every_rule
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradient_through_two_writes_matches_finite_differences(rule, fast):
    """Along a random direction of all inputs; the slow test checks each element."""
    # Newton-Schulz does not depend on its input's norm: a smaller step keeps it smooth
    level = CMSLevel(period=2, rule=rule, lr=0.05, clip=1.5, trust=0.9)
    x, g = tokens(4)

    def after(weight, bias, lr, x, g):
        start = (weight, bias)
        state = fresh(level, start)
        for a in (0, 2):
            error = (
                torch.einsum("tbi,boi->tbo", x[a : a + 2], weights_of(start, state)[0])
                + g[a : a + 2]
            )
            one = torch.tensor([2, 2])
            gram = torch.einsum("tbi,tbj->bij", x[a : a + 2], x[a : a + 2])
            extra = {"gram": (gram, gram.new_zeros(ROWS, 0, 0))} if rule == "dgd" else {}
            gradients = torch.einsum("tbo,tbi->boi", error, x[a : a + 2]), error.sum(0)
            state = gather(state, gradients, seen=one, **extra)
            state = write(level, start, state, lr=lr)
        return weights_of(start, state)

    inputs = (*start_of(), torch.tensor(0.05).double(), x, g)
    inputs = [i.clone().requires_grad_() for i in inputs]
    assert torch.autograd.gradcheck(after, inputs, fast_mode=fast)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"period": 0}, "period"),
        ({"period": 4, "rule": "momentun"}, "did you mean 'momentum'"),
        ({"period": 4, "objective": "npt"}, "did you mean 'ntp'"),
        ({"period": 4, "reduction": "max"}, "reduction"),
        ({"period": 4, "lr": -1.0}, "learning rate"),
        ({"period": 4, "lr": float("nan")}, "learning rate"),
        ({"period": 4, "clip": 0.0}, "clip"),
        ({"period": 4, "trust": -1.0}, "trust"),
    ],
)
def test_invalid_options_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        CMSLevel(**options)


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"square_momentum": -0.1}, {"erase": -1.0}, {"slow_period": 0}]
)
def test_constants_of_rules_are_checked(options):
    with pytest.raises(UserError, match=next(iter(options))):
        RuleOptions(**options)


@pytest.mark.parametrize("periods", [(), (0, 4), (8, 4), (4, 4), (4, 6)])
def test_periods_that_do_not_divide_are_refused(periods):
    with pytest.raises(UserError, match="levels"):
        check_periods(periods, "levels")
