"""Nested Learning (arXiv 2512.24695v1): preliminaries and definitions, against reference loops."""

import pytest
import torch
from argmin import drawn, minimum, outer
from tolerances import assert_close

from nestling.ops import momentum_gated_delta_rule
from nestling.rules.associative import delta, hebbian
from nestling.rules.dgd import dgd

TOKENS, WIDTH = 7, 4


def tokens(seed):
    return drawn(TOKENS, WIDTH, seed=seed)


def by_kernel(q, k, w, alpha=None):
    """The reads of one head, from [T, D] each; alpha [T], None: no decay."""
    alpha = torch.ones(TOKENS, dtype=torch.float64) if alpha is None else alpha
    rows = (x[None, :, None] for x in (q, k, w))
    y, state = momentum_gated_delta_rule(*rows, alpha=alpha[None, :, None])
    return y[0, :, 0], state.weight[0, 0]


@pytest.mark.parametrize("eta", [0.1, 0.6])
def test_v1_eq01_03_gradient_descent_in_three_forms(eta):
    """A step, the proximal step on the linearised loss, and follow-the-regularised-leader."""
    first, x, y = drawn(3, 4), drawn(6, 4, seed=1), drawn(6, 3, seed=2)
    W, total = first, torch.zeros_like(first)
    for t in range(6):
        gradient = torch.func.grad(lambda W, t=t: (W @ x[t] - y[t]).square().sum() / 2)(W)
        total = total + gradient

        def proximal(V, W=W, G=gradient):
            return (G * V).sum() + (V - W).square().sum() / (2 * eta)

        def leader(V, G=total):
            return (G * V).sum() + (V - first).square().sum() / (2 * eta)

        after = hebbian(W, x[t], -(W @ x[t] - y[t]), eta)
        assert_close(after, W - eta * gradient)
        assert_close(after, minimum(proximal, W))
        assert_close(after, minimum(leader, W))
        W = after


def test_v1_eq05_a_fast_weight_programmer_is_the_kernel_without_an_eraser():
    """M <- alpha M + v phi(k)^T, y = M phi(q), here with phi = elu + 1."""
    q, k, v, alpha = tokens(0), tokens(1), tokens(2), torch.sigmoid(drawn(TOKENS, seed=3))
    M = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    phi_q, phi_k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
    y, last = by_kernel(phi_q, phi_k, v, alpha)
    for t in range(TOKENS):
        M = alpha[t] * M + outer(v[t], phi_k[t])
        assert_close(y[t], M @ phi_q[t])
    assert_close(last, M)


def test_v1_eq14_18_61_linear_attention_is_gradient_descent_on_a_dot_product():
    """Eq 17 is the proximal step, Eq 18 the gradient step, Eq 15 the recurrence: all the same."""
    x, W_q, W_k, W_v = tokens(0), *(drawn(WIDTH, WIDTH, seed=s) for s in (1, 2, 3))
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
    y, last = by_kernel(q, k, v)
    M = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    for t in range(TOKENS):

        def proximal(V, t=t, M=M):
            return -(V @ k[t]) @ v[t] + (V - M).square().sum() / 2

        best, M = minimum(proximal, M), hebbian(M, k[t], v[t])
        assert_close(M, best)
        assert_close(y[t], M @ q[t])
    assert_close(last, M)


@pytest.mark.parametrize("eta", [0.2, 3.0])
@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_v1_eq59_60_gradient_descent_and_dgd_are_generalised_gradient_descent(objective, eta):
    """argmin of L(W; x, u) + Ret(W, W_t) with u = f(x) = -g of the memory's own output; Ret is the
    squared distance. Slip: printed without W in L, and u is called a key."""
    W, x, y = drawn(3, 4), drawn(4, seed=1), drawn(3, seed=2)
    g = torch.tanh(W @ x) - y  # of any loss of the answer: u depends on W
    u = -g

    def generalised(V):
        fit = -(V @ x) @ u if objective == "dot" else (V @ x - u).square().sum() / 2
        return fit + (V - W).square().sum() / (2 * eta)

    step = hebbian(W, x, u, eta) if objective == "dot" else dgd(W, x, g, eta)
    assert_close(step, minimum(generalised, W))


@pytest.mark.parametrize("eta", [0.2, 3.0])
def test_v1_eq98_99_with_the_whole_loss_a_delta_write_is_a_proximal_point(eta):
    """Defs 6, 7 have L itself where Defs 3, 4 have its linearisation: for the squared error of a
    given pair that is DGD with minus the value; a small step is the step of the delta rule."""
    M, k, v = drawn(3, 4), drawn(4, seed=1), drawn(3, seed=2)

    def whole(V):
        return (V @ k - v).square().sum() / 2 + (V - M).square().sum() / (2 * eta)

    def linearised(V):
        slope = torch.func.grad(lambda V: (V @ k - v).square().sum() / 2)(M)
        return (slope * V).sum() + (V - M).square().sum() / (2 * eta)

    assert_close(dgd(M, k, -v, eta), minimum(whole, M))
    assert_close(delta(M, k, v, eta), minimum(linearised, M))
    for small in (1e-3, 1e-4):
        apart = dgd(M, k, -v, small) - delta(M, k, v, small)
        # the second order of the step: eta^2 |k|^2 times the write
        assert apart.norm() <= small**2 * (k @ k) * outer(M @ k - v, k).norm() * (1 + 1e-9)
        assert apart.norm() > 0
