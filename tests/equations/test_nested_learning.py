"""Nested Learning (arXiv 2512.24695v1): learning rules and optimizers, against reference loops."""

import math

import pytest
import torch
from argmin import drawn, minimum, outer
from tolerances import assert_close
from torch import nn

from nestling.core import native
from nestling.optim import (
    M3,
    DeepMomentum,
    DeltaGD,
    DeltaMomentum,
    ElementwiseMemory,
    FeatureMomentum,
    NonlinearMomentum,
)
from nestling.rules import Evidence, Momentum
from nestling.rules.associative import delta, hebbian
from nestling.rules.delta_momentum import along_matrix, inner_rows
from nestling.rules.dgd import dgd, dgd_rows
from nestling.rules.newton_schulz import CUBIC
from nestling.rules.newton_schulz import newton_schulz as ours
from nestling.rules.objective import OBJECTIVES


def follow(optimizer, weight, gradients):
    """The weights after each of the given gradients."""
    seen = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        seen.append(weight.detach().clone())
    return seen


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_have_the_gradients_of_their_values(name):
    y, v = 2 * drawn(5, 3), drawn(5, 3, seed=1)
    value, gradient = OBJECTIVES[name]
    assert_close(gradient(y, v), torch.func.grad(lambda y: value(y, v).sum())(y))


def test_v1_eq07_09_back_propagation_writes_pairs_of_input_and_error():
    first, second, x = drawn(4, 3), drawn(2, 4, seed=1), drawn(3, seed=2)
    target, eta = drawn(2, seed=3), 0.3

    def loss(first, second):
        return (second @ torch.tanh(first @ x) - target).square().sum() / 2

    grads = torch.func.grad(loss, (0, 1))(first, second)
    z = [sum(first[i, j] * x[j] for j in range(3)) for i in range(4)]
    hidden = torch.stack([torch.tanh(value) for value in z])
    answer = torch.stack([sum(second[i, j] * hidden[j] for j in range(4)) for i in range(2)])
    delta_2 = answer - target
    delta_1 = torch.stack(
        [(1 - hidden[j] ** 2) * sum(second[i, j] * delta_2[i] for i in range(2)) for j in range(4)]
    )
    assert_close(grads[1], outer(delta_2, hidden))
    assert_close(grads[0], outer(delta_1, x))
    assert_close(hebbian(first, x, -delta_1, eta), first - eta * grads[0])


@pytest.mark.parametrize("eta", [0.05, 0.7])
def test_v1_eq29_31_54_55_58_gradient_descent_is_a_proximal_dot_product_memory(eta):
    W, x, g = drawn(3, 4), drawn(4, seed=1), drawn(3, seed=2)
    best = minimum(lambda V: (V @ x) @ g + (V - W).square().sum() / (2 * eta), W)
    assert_close(hebbian(W, x, -g, eta), best)
    assert_close(delta(W, x, -g, eta), W - eta * outer(W @ x + g, x))


def test_v1_eq10_13_33_34_momentum_is_a_memory_of_gradients():
    alpha, eta = 0.9, 0.1
    m = torch.zeros(3, 4, dtype=torch.float64)
    weight = nn.Parameter(drawn(3, 4))
    start, moved = weight.detach().clone(), torch.zeros(3, 4, dtype=torch.float64)
    gradients = [drawn(3, 4, seed=s) for s in range(1, 6)]
    got = follow(DeltaMomentum([weight], lr=eta, alpha=alpha, eta_decay=0.0), weight, gradients)
    for G, W in zip(gradients, got, strict=True):
        # a step on <m, G> + (1 - alpha) |m|^2 / (2 eta)
        inner = torch.func.grad(
            lambda m, G=G: (m * G).sum() + (1 - alpha) * m.square().sum() / (2 * eta)
        )
        m = m - eta * inner(m)
        moved = moved + m
        assert_close(W, start + moved)
    rule, one = Momentum(alpha=alpha), torch.ones(1, dtype=torch.long)
    change, (kept,) = rule.step(eta, Evidence(gradients[0][None]), (start[None],), one)
    assert_close(kept[0], alpha * start + gradients[0])
    assert_close(change, -eta * kept)


def test_v1_eq35_37_momentum_in_general_form_with_another_inner_loss():
    """An l2 loss in place of the dot product: the momentum regresses -delta on x."""
    m, x, g, eta = drawn(3, 4), drawn(4, seed=1), drawn(3, seed=2), 0.2
    loss = torch.func.grad(lambda m: (m @ x + g).square().sum() / 2)
    assert_close(delta(m, x, -g, eta), m - eta * loss(m))


@pytest.mark.parametrize(("count", "percent"), [(6, 46.9), (7, 52.2), (43, 98.9), (44, 99.0)])
def test_v1_section_4_3_how_many_gradients_a_momentum_holds(count, percent):
    """Slip: printed "6" and "43" are the largest indices, of the seventh and of the 44th."""
    weight = nn.Parameter(torch.zeros(64, dtype=torch.float64))
    optimizer = NonlinearMomentum([weight], lr=0.0, alpha=0.9, output="sign")
    basis = torch.eye(64, dtype=torch.float64)
    follow(optimizer, weight, list(basis))
    newest_first = optimizer.state[weight]["m"].flip(0)
    assert round(float(100 * newest_first[:count].sum()), 1) == percent


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_v1_eq38_41_46_47_51_preconditioned_momentum_of_features(exponent):
    beta, eps, alpha, eta = 0.8, 1e-3, 0.9, 0.1
    weight = nn.Parameter(drawn(3, 4))
    W, gradients = weight.detach().clone(), [drawn(3, 4, seed=s) for s in range(1, 5)]
    optimizer = FeatureMomentum(
        [weight],
        lr=eta,
        alpha=alpha,
        exponent=exponent,
        preconditioner="covariance",
        preconditioner_beta=beta,
        preconditioner_every=1,
        eps=eps,
    )
    got = follow(optimizer, weight, gradients)
    m, C = torch.zeros_like(W), torch.zeros(3, 3, dtype=torch.float64)
    for t, (G, now) in enumerate(zip(gradients, got, strict=True), start=1):
        phi = torch.stack([torch.stack([g.sign() * g.abs() ** exponent for g in r]) for r in G])
        C = beta * C + (1 - beta) * sum(outer(column, column) for column in phi.T)
        values, vectors = torch.linalg.eigh(C / (1 - beta**t) + eps * torch.eye(3).double())
        P = sum(value**-0.5 * outer(v, v) for value, v in zip(values, vectors.T, strict=True))
        m = alpha * m - eta * P @ phi
        W = W + m
        assert_close(now, W)


def test_v1_eq46_objective_of_preconditioned_momentum():
    """min over m of <m G^T, P>: its gradient is P G, and momentum descends it."""
    m, G, P = drawn(3, 4), drawn(3, 4, seed=1), drawn(3, 3, seed=2)
    assert_close(torch.func.grad(lambda m: ((m @ G.T) * P).sum())(m), P @ G)


def test_v1_eq42_52_muon_is_momentum_read_through_newton_schulz():
    alpha, eta = 0.9, 0.1
    weight = nn.Parameter(drawn(3, 5))
    W, m = weight.detach().clone(), torch.zeros(3, 5, dtype=torch.float64)
    gradients = [drawn(3, 5, seed=s) for s in range(1, 5)]
    optimizer = NonlinearMomentum([weight], lr=eta, alpha=alpha, nesterov=False, adjust_lr="none")
    for G, now in zip(gradients, follow(optimizer, weight, gradients), strict=True):
        m = alpha * m - eta * G
        W = W + eta * newton_schulz(m)
        assert_close(now, W)


def newton_schulz(G, steps=5):
    """X <- a X + (b A + c A^2) X with A = X X^T, from G over its length."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / G.square().sum().sqrt()
    for _ in range(steps):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    return X


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (6, 6), (2, 8, 3)])
def test_v1_eq42_newton_schulz_brings_singular_values_to_one(shape):
    U, s, V = torch.linalg.svd(drawn(*shape), full_matrices=False)
    x = (
        U * torch.linspace(0.3, 1, s.shape[-1], dtype=s.dtype) @ V
    )  # five steps cannot lift a tiny singular value to one
    found = ours(x)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.65 and values.max() < 1.25
    for one, other in zip(x.reshape(-1, *shape[-2:]), found.reshape(-1, *shape[-2:]), strict=True):
        assert (other - newton_schulz(one)).abs().max() < 1e-8
    cubic = ours(x, 30, coefficients=CUBIC)
    assert_close(cubic, U @ V)


def test_v1_eq43_44_printed_step_descends_another_objective():
    """Slip: 44 is the gradient of |O - g|^2 / 2 + |O^T O - I|^2 / 2, not of 43."""
    Q, g, zeta = drawn(4, 3), drawn(4, 3, seed=1), 0.01
    eye = torch.eye(3, dtype=torch.float64)
    printed = Q - zeta * (Q - g + 2 * Q @ (Q.T @ Q - eye))

    def near_and_orthogonal(Q):
        return (Q - g).square().sum() / 2 + (Q.T @ Q - eye).square().sum() / 2

    assert_close(printed, Q - zeta * torch.func.grad(near_and_orthogonal)(Q))
    eq43 = torch.func.grad(lambda Q: (Q.T @ Q - eye).square().sum())
    assert_close(eq43(Q), 4 * Q @ (Q.T @ Q - eye))


def test_v1_eq48_delta_momentum_descends_its_objective():
    """|m G^T + P|^2 / 2 and (1 - alpha) |m|^2 / 2: the step that the rule takes."""
    m, G, P, alpha = drawn(3, 4), drawn(3, 4, seed=1), drawn(3, 3, seed=2), 0.8
    loss = torch.func.grad(
        lambda m: (m @ G.T + P).square().sum() / 2 + (1 - alpha) * m.square().sum() / 2
    )
    assert_close(m - loss(m), alpha * m - along_matrix(m, G) - P @ G)
    rows = torch.func.grad(lambda m: (m * G).sum(1).square().sum() / 2)
    assert_close(rows(m), inner_rows(m, G) * G)


@pytest.mark.parametrize("norm", ["unit", "soft", "clamp", "none"])
@pytest.mark.parametrize("layout", ["scalar", "row", "matrix"])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3)])
@pytest.mark.parametrize("compiled", ["1", "0"])
def test_v1_eq49_delta_momentum(layout, norm, shape, compiled, monkeypatch):
    monkeypatch.setenv(native.SWITCH, compiled)
    alpha, eta_decay, lr = 0.9, 0.4, 0.1
    weight = nn.Parameter(drawn(*shape))
    start, gradients = weight.detach().clone(), [drawn(*shape, seed=s) for s in range(1, 5)]
    options = {"alpha": alpha, "eta_decay": eta_decay, "layout": layout, "decay_norm": norm}
    got = follow(DeltaMomentum([weight], lr=lr, **options), weight, gradients)
    W = start.reshape(shape[0], -1)
    m = torch.zeros_like(W)

    def k(g):
        length = sum(x * x for x in g.flatten()) ** 0.5
        return {
            "unit": eta_decay / length**2,
            "soft": eta_decay / (1 + length) ** 2,
            "clamp": min(eta_decay, alpha / length**2),
            "none": eta_decay,
        }[norm]

    p, q = W.shape
    for G, now in zip(gradients, got, strict=True):
        G, old = G.reshape(p, q), m.clone()
        for i in range(p):
            for j in range(q):
                if layout == "scalar":
                    decay = k(G) * sum(x * x for x in G.flatten()) * old[i, j]
                elif layout == "row":
                    decay = k(G[i]) * sum(old[i, a] * G[i, a] for a in range(q)) * G[i, j]
                else:
                    gram = [sum(G[b, a] * G[b, j] for b in range(p)) for a in range(q)]
                    decay = k(G) * sum(old[i, a] * gram[a] for a in range(q))
                m[i, j] = alpha * old[i, j] - decay + G[i, j]
        W = W - lr * m
        assert_close(now.reshape(p, q), W)


@pytest.mark.parametrize("inner", ["l2", "dot", "huber"])
def test_v1_eq50_deep_momentum(inner):
    alpha, eta, skip, lr, width = 0.9, 0.5, 0.6, 0.1, 4
    weight = nn.Parameter(drawn(3, 5))
    W, gradients = weight.detach().clone(), [drawn(3, 5, seed=s) for s in range(1, 5)]
    options = {"alpha": alpha, "eta": eta, "skip": skip, "width": width, "hidden": 6}
    optimizer = DeepMomentum([weight], lr=lr, inner=inner, **options)
    got = follow(optimizer, weight, gradients)
    first = first_0 = optimizer.state[weight]["start"]
    second, square = torch.zeros(4, 6, dtype=torch.float64), 0.0
    gelu = nn.functional.gelu
    for t, (G, now) in enumerate(zip(gradients, got, strict=True), start=1):
        square = 0.99 * square + 0.01 * float(G.square().mean())
        u = torch.cat([G.flatten() / math.sqrt(square / (1 - 0.99**t)), torch.zeros(1)])
        u = [u[i : i + width] for i in range(0, 16, width)]

        def loss(first, second, u=u):
            total = 0.0
            for row in u:
                answer = -skip * row + second @ gelu(first @ row)
                target = -torch.ones_like(row) if inner == "dot" else -row
                total = total + OBJECTIVES[inner].value(answer, target)
            return total / len(u)

        slopes = torch.func.grad(loss, (0, 1))(first, second)
        power = sum(float(row.square().sum()) for row in u) / len(u)
        seen = sum(float(gelu(first @ row).square().sum()) for row in u) / len(u)
        rates = [eta / (1 + eta * x) for x in (power * float(second.square().sum()), seen)]
        first = first_0 + alpha * (first - first_0) - rates[0] * slopes[0]
        second = alpha * second - rates[1] * slopes[1]
        moves = torch.cat([-skip * row + second @ gelu(first @ row) for row in u])
        W = W + lr * moves[:15].view(3, 5)
        assert_close(now, W)


@pytest.mark.parametrize("skip", [0.0, 0.5, 1.0])
def test_v1_eq50_first_step_of_deep_momentum(skip):
    """The network has already learned from the gradient, so the step is longer than ``skip``."""
    weight, eta = nn.Parameter(torch.zeros(8, dtype=torch.float64)), 0.7
    optimizer = DeepMomentum([weight], lr=1.0, skip=skip, eta=eta, width=8, hidden=5)
    gradient = drawn(8)
    (moved,) = follow(optimizer, weight, [gradient])
    u = gradient / gradient.square().mean().sqrt()
    hidden = torch.nn.functional.gelu(optimizer.state[weight]["start"] @ u)
    p = eta * (hidden @ hidden)
    assert_close(moved, -(skip + (1 - skip) * p / (1 + p)) * u)


@pytest.mark.parametrize("length", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("eta", [0.2, 5.0])
def test_v1_eq56_57_112_121_delta_gradient_descent_is_the_argmin_for_any_input(length, eta):
    W, x, g = drawn(3, 4), drawn(4, seed=1), drawn(3, seed=2)
    x = length * x / x.norm()
    # normal equations of |V x + g|^2 / 2 + |V - W|^2 / (2 eta)
    eye = torch.eye(4, dtype=torch.float64)
    best = (W / eta - outer(g, x)) @ torch.linalg.inv(eye / eta + outer(x, x))
    assert_close(dgd(W, x, g, eta), best)
    assert_close(dgd_rows(W, outer(g, x), outer(x, x), eta), best)
    if length == 1.0:
        printed = eta / (1 + eta)
        assert_close(best, W @ (eye - printed * outer(x, x)) - printed * outer(g, x))
    # appendix C weighs the distance by eta / 2: alpha = beta = 1 / (length^2 + eta)
    alpha = 1 / (length**2 + 1 / eta)
    assert_close(best, W @ (eye - alpha * outer(x, x)) - alpha * outer(g, x))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("form", "scale"), [("exact", 1.0), ("exact", 0.3), ("explicit", 1.0)])
def test_v1_eq56_57_delta_gradient_descent_of_a_batch(reduction, form, scale):
    layer, X, eta = nn.Linear(4, 3, bias=False).double(), drawn(6, 4), 0.1
    W = layer.weight.detach().clone()
    options = {"form": form, "decay_scale": scale, "reduction": reduction}
    optimizer = DeltaGD(layer, lr=eta, **options)
    answer = layer(X).square().sin().sum(1)
    (answer.mean() if reduction == "mean" else answer.sum()).backward()
    G = layer.weight.grad.clone()
    optimizer.step()
    count = 6 if reduction == "mean" else 1
    gram = sum(outer(x, x) for x in X) / count
    if form == "explicit":
        assert_close(layer.weight.detach(), W - eta * (G + scale * W @ gram))
        return

    def whole(V):
        near = (V - W).square().sum() / (2 * eta)
        return (V * G).sum() + scale * sum((V @ x).square().sum() for x in X) / (2 * count) + near

    assert_close(layer.weight.detach(), minimum(whole, W))


def test_cr_eq27_29_is_another_rule():
    layer, x = nn.Linear(4, 3, bias=False).double(), drawn(4)
    W = layer.weight.detach().clone()
    optimizer = DeltaGD(layer, lr=0.1, form="cr")
    layer(x).square().sum().backward()
    G = layer.weight.grad.clone()
    optimizer.step()
    eye = torch.eye(4, dtype=torch.float64)
    assert_close(layer.weight.detach(), W @ (eye - outer(x, x)) - 0.1 * G)


@pytest.mark.parametrize("target", ["root", "square"])
def test_v1_eq100_105_adam_is_the_best_elementwise_memory(target):
    """The closed form against the weighted normal equations, element by element."""
    beta, ridge, lr = 0.8, 1e-3, 0.1
    weight = nn.Parameter(drawn(2, 3))
    W, gradients = weight.detach().clone(), [drawn(2, 3, seed=s) for s in range(1, 6)]
    options = {"beta1": beta, "beta2": beta, "target": target, "ridge": ridge}
    optimizer = ElementwiseMemory([weight], lr=lr, **options)
    for t, now in enumerate(follow(optimizer, weight, gradients), start=1):
        w = torch.tensor([beta ** (t - i) for i in range(1, t + 1)], dtype=torch.float64)
        w = w / w.sum()
        best = torch.zeros_like(W)
        for index in range(W.numel()):
            g = torch.stack([G.flatten()[index] for G in gradients[:t]])
            power = (w * g * g).sum()
            P = power.sqrt() if target == "root" else power
            # rows sqrt(w) g and sqrt(ridge), right sides sqrt(w) P and zero
            A = torch.cat([w.sqrt() * g, torch.tensor([math.sqrt(ridge)]).double()])[:, None]
            b = torch.cat([w.sqrt() * P, torch.zeros(1)])[:, None]
            best.view(-1)[index] = torch.linalg.lstsq(A, b).solution[0, 0]
        W = W - lr * best
        assert_close(now, W)


def test_v1_eq106_111_full_matrix_adagrad_from_outer_products():
    """With P G, P = (sum of G G^T)^(-1/2) of column gradients, and the plain sum for M."""
    weight = nn.Parameter(drawn(3, 1))
    W, gradients = weight.detach().clone(), [drawn(3, 1, seed=s) for s in range(1, 5)]
    beta = 1 - 1e-9  # a mean without forgetting, times the count: the sum
    optimizer = FeatureMomentum(
        [weight],
        lr=0.1,
        alpha=0.0,
        exponent=1,
        preconditioner="covariance",
        preconditioner_beta=beta,
        preconditioner_every=1,
        eps=1e-12,
    )
    got = [W, *follow(optimizer, weight, gradients)]
    H = torch.zeros(3, 3, dtype=torch.float64)
    for t, G in enumerate(gradients, start=1):
        H = H + outer(G[:, 0], G[:, 0])
        if t >= 3:
            # of full rank; the mean over t gradients in place of the sum: times sqrt(t)
            values, vectors = torch.linalg.eigh(H)
            move = 0.1 * t**0.5 * (vectors * values.rsqrt()) @ vectors.T @ G
            torch.testing.assert_close(got[t - 1] - got[t], move, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 2)])
def test_v1_eq75_algorithm_1_m3(shape):
    eta, beta1, beta2, beta3, alpha, f, eps = 0.01, 0.9, 0.5, 0.8, 0.7, 3, 1e-8
    weight = nn.Parameter(drawn(*shape))
    W = weight.detach().clone().flatten(1)
    gradients = [drawn(*shape, seed=s) for s in range(1, 12)]
    optimizer = M3(
        [weight],
        lr=eta,
        beta1=beta1,
        beta2=beta2,
        slow=((f, beta3, alpha),),
        style="paper",
        update_norm="none",
        eps=eps,
    )
    got = follow(optimizer, weight, gradients)
    flat = [G.flatten(1) for G in gradients]
    M1, M2, V, O2 = (torch.zeros_like(W) for _ in range(4))
    for t, now in enumerate(got):
        if t % f == 0 and t:
            # the chunk before this one, whose f gradients are t - f .. t - 1
            M2 = M2 + beta3 * sum(flat[t - f : t])
            O2 = muon(M2)
        g = flat[t]
        M1 = M1 + beta1 * g
        V = V + beta2 * g * g
        W = W - eta * (muon(M1) + alpha * O2) / (V.sqrt() + eps)
        assert_close(now.flatten(1), W)


def muon(G):
    return newton_schulz(G) if G.shape[0] <= G.shape[1] else newton_schulz(G.T).T
