"""The linear and delta family: against reference loops, transformers, and each other."""

import math

import pytest
import torch
from tolerances import assert_close
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories import MEMORIES
from nestling.memories.linear import delta as delta_frame
from nestling.memories.linear.comba import Comba
from nestling.memories.linear.delta_net import DeltaNet
from nestling.memories.linear.gated_delta_net import GatedDeltaNet
from nestling.memories.linear.matrix import Tokens, scan
from nestling.memories.linear.oja_net import OjaNet
from nestling.memories.self_titans import SelfTitans

FAMILY = ("linear_attention", "retnet", "delta_net", "gated_delta_net", "comba", "oja_net")
every_member = pytest.mark.parametrize("name", FAMILY)


def build(kind, width=8, heads=2, strong=True, seed=0, **options):
    """A small float64 memory; ``strong``: gates and reads are far from their initial values."""
    kind = MEMORIES.load(kind) if isinstance(kind, str) else kind
    memory = kind(kind.Config(**options), hidden_size=width, num_heads=heads).double()
    generator = torch.Generator().manual_seed(seed)
    memory.init_weights(generator)
    if strong:
        with torch.no_grad():
            for parameter in memory.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator).double())
    return memory


def sequence(length, batch=2, width=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


# the equations, one token after the other


def heads_of(linear, x, heads):
    return (x @ linear.weight.T).unflatten(-1, (heads, -1))


def naive_linear_attention(memory, x):
    """One document [T, D]."""
    H = memory.num_heads
    q, k, v = (heads_of(m, x, H) for m in (memory.query, memory.key, memory.value))
    M = [torch.zeros(memory.width, memory.width, dtype=x.dtype) for _ in range(H)]
    z = [torch.zeros(memory.width, dtype=x.dtype) for _ in range(H)]
    rows = []
    for t in range(len(x)):
        read = []
        for h in range(H):
            phi_q, phi_k = (torch.where(u > 0, u + 1, u.exp()) for u in (q[t, h], k[t, h]))
            M[h] = M[h] + torch.outer(v[t, h], phi_k)
            z[h] = z[h] + phi_k
            read.append(M[h] @ phi_q / (z[h] @ phi_q + memory.config.epsilon))
        rows.append(torch.cat(read))
    return torch.stack(rows) @ memory.output.weight.T


def turned(x, t):
    half = len(x) // 2
    out = [None] * len(x)
    for i in range(half):
        angle = t * 10000 ** -(i / (half - 1))
        a, b = x[i], x[half + i]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[half + i] = a * math.sin(angle) + b * math.cos(angle)
    return torch.stack(out)


def naive_retnet(memory, x):
    H = memory.num_heads
    q, k, v = (heads_of(m, x, H) for m in (memory.query, memory.key, memory.value))
    M = [torch.zeros(memory.values, memory.keys, dtype=x.dtype) for _ in range(H)]
    rows = []
    for t in range(len(x)):
        read = []
        for h in range(H):
            key = turned(k[t, h], t) / math.sqrt(memory.keys)
            M[h] = (1 - 2.0 ** (-5 - h)) * M[h] + torch.outer(v[t, h], key)
            y = M[h] @ turned(q[t, h], t)
            y = y - y.mean()
            read.append(y / torch.sqrt(y.square().mean() + 1e-5))
        gate = x[t] @ memory.gate.weight.T
        rows.append(torch.cat(read) * gate * torch.sigmoid(gate))
    return torch.stack(rows) @ memory.output.weight.T


def naive_delta_family(memory, x):
    H, K = memory.num_heads, memory.keys
    joined = torch.cat([x @ m.weight.T for m in (memory.query, memory.key, memory.value)], dim=-1)
    weight = memory.convolution.weight
    M = [torch.zeros(memory.values, K, dtype=x.dtype) for _ in range(H)]
    rows = []
    for t in range(len(x)):
        z = sum(joined[t - lag] * weight[:, -1 - lag] for lag in range(min(t + 1, weight.shape[1])))
        z = z * torch.sigmoid(z)
        q, k, v = (
            part.unflatten(0, (H, -1)) for part in z.split((H * K, H * K, len(z) - 2 * H * K))
        )
        read = []
        for h in range(H):
            unit_q, unit_k = (u / torch.sqrt(u @ u + 1e-6) for u in (q[h], k[h]))
            beta = torch.sigmoid(x[t] @ memory.beta.weight[h])
            if getattr(memory.config, "allow_neg_eigval", False):
                beta = 2 * beta
            alpha = 1.0
            if getattr(memory, "retention", None) is not None:
                r = memory.retention
                step = torch.log1p(torch.exp(x[t] @ r.step.weight[h] + r.alpha_bias[h]))
                alpha = torch.exp(-torch.exp(r.log_rate[h]) * step)
            if isinstance(memory, Comba):
                b, d = torch.sigmoid(memory.erase_logit[h]), memory.correction[h]
                p, unit_q = b * unit_k, unit_q - d * unit_k
                if memory.config.form == "code":
                    unit_q, p = (
                        u / torch.sqrt(u @ u + 1e-6) for u in (q[h] - d * b * k[h], b * k[h])
                    )
                M[h] = alpha * M[h] + beta * torch.outer(v[h] - M[h] @ p, unit_k)
            elif isinstance(memory, OjaNet):
                unit_v = v[h] / torch.sqrt(v[h] @ v[h] + 1e-6)
                M[h] = alpha * M[h] + beta * torch.outer(unit_v, unit_k - M[h].T @ unit_v)
            else:
                M[h] = alpha * M[h]
                M[h] = M[h] - beta * torch.outer(M[h] @ unit_k - v[h], unit_k)
            y = M[h] @ unit_q / (1 if isinstance(memory, OjaNet) else math.sqrt(K))
            read.append(y / torch.sqrt(y.square().mean() + 1e-5) * memory.norm.weight)
        y = torch.cat(read)
        if memory.gate is not None:
            gate = x[t] @ memory.gate.weight.T
            y = y * torch.sigmoid(gate) * (1 if isinstance(memory, Comba) else gate)
        rows.append(y)
    return torch.stack(rows) @ memory.output.weight.T


VARIANTS = [
    ("linear_attention", {}, 67, naive_linear_attention),
    ("retnet", {}, 67, naive_retnet),
    ("retnet", {"expand_value": 1.0}, 9, naive_retnet),
    ("delta_net", {}, 67, naive_delta_family),
    ("delta_net", {"allow_neg_eigval": True, "convolution": 1}, 9, naive_delta_family),
    ("gated_delta_net", {"key_share": 0.5}, 67, naive_delta_family),
    ("gated_delta_net", {"allow_neg_eigval": True, "output_gate": False}, 9, naive_delta_family),
    ("oja_net", {}, 67, naive_delta_family),
    ("oja_net", {"decay": False, "convolution": 2}, 67, naive_delta_family),
    ("comba", {"key_share": 0.5}, 67, naive_delta_family),
    ("comba", {"output_gate": False, "convolution": 2}, 9, naive_delta_family),
    ("comba", {"form": "paper"}, 67, naive_delta_family),
]


@pytest.mark.parametrize(("name", "options", "length", "naive"), VARIANTS)
def test_matches_equations_token_by_token(name, options, length, naive):
    """Output and the gradient of every parameter and input, past the end of a chunk too."""
    memory = build(name, **options)
    x = sequence(length).requires_grad_()
    reset = torch.zeros(2, length, dtype=torch.bool)
    reset[1, 6] = True
    fast, _ = memory(x, None, Flow(reset=reset))
    second = torch.cat([naive(memory, x[1, :6]), naive(memory, x[1, 6:])])
    truth = torch.stack([naive(memory, x[0]), second])
    assert_close(fast, truth)
    wanted = {"x": x} | dict(memory.named_parameters())
    cotangent = sequence(length, seed=2)
    grads = [
        torch.autograd.grad((y * cotangent).sum(), list(wanted.values())) for y in (fast, truth)
    ]
    for key, got, want in zip(wanted, *grads, strict=True):
        assert want.norm() > 0, key
        assert (got - want).norm() <= 1e-9 * want.norm(), key


@pytest.fixture
def exact_units(monkeypatch):
    """Normalisation without epsilon."""
    monkeypatch.setattr(delta_frame, "UNIT_EPS", 0.0)


@torch.no_grad()
def test_comba_corrects_query_before_normalising(exact_units):
    """As in the public code; the effect depends on the norms of q and k."""
    comba, x = build(Comba), sequence(5)
    q, k, v = (heads_of(m, x, 2) for m in (comba.query, comba.key, comba.value))
    b, d = torch.sigmoid(comba.erase_logit)[:, None], comba.correction[:, None]
    tokens = comba.tokens(x, q, k, v)
    assert_close(tokens.q, functional.normalize(q - d * b * k, dim=-1))
    assert_close(tokens.erase_key, functional.normalize(k, dim=-1))
    assert_close(comba.tokens(x, 3 * q, 3 * k, v).q, tokens.q)
    assert (comba.tokens(x, 3 * q, k, v).q - tokens.q).norm(dim=-1).min() > 0.01


@torch.no_grad()
def test_v1_eq66_67_oja_is_gradient_step_and_transposed_delta_rule(exact_units):
    """Of half of -2 <M phi(k), v> + |M^T v|^2. Slip: Eq 67 prints M^T v less v phi(k)^T."""
    oja, x = build(OjaNet, decay=False), sequence(9)
    q, k, v = (heads_of(m, x, 2) for m in (oja.query, oja.key, oja.value))
    weight = oja.init_state(2).weight
    eta, phi, unit_v = (
        torch.sigmoid(oja.beta(x)),
        *(functional.normalize(z, dim=-1) for z in (k, v)),
    )
    _, last = oja.recur(x, q, k, v, weight, Flow())
    tokens = Tokens(unit_v, unit_v, eta[..., None] * phi, torch.ones_like(eta), eta)
    assert_close(last.mT, scan(tokens, weight, Flow())[1])
    for t in range(9):

        def objective(M, t=t):
            read = torch.einsum("bhvk,bhk->bhv", M, phi[:, t])
            back = torch.einsum("bhvk,bhv->bhk", M, unit_v[:, t])
            return (-(read * unit_v[:, t]).sum(-1) + back.square().sum(-1) / 2).sum()

        weight = weight - eta[:, t, :, None, None] * torch.func.grad(objective)(weight)
    assert_close(last, weight)


# transformers


def qwen3_next(width=24, heads=3, keys=6, values=8):
    config = Qwen3NextConfig(
        hidden_size=width,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=keys,
        linear_value_head_dim=values,
        rms_norm_eps=1e-5,
    )
    layer = Qwen3NextGatedDeltaNet(config, 0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return config, layer


def with_weights_of(layer):
    """Our memory with the weights of theirs, which keeps q, k, v, z and b, a head by head."""
    H, K, V = layer.num_k_heads, layer.head_k_dim, layer.head_v_dim
    options = {"key_share": H * K / layer.hidden_size, "expand_value": V / K}
    memory = build(GatedDeltaNet, layer.hidden_size, H, **options).float()
    joined = layer.in_proj_qkvz.weight.unflatten(0, (H, -1)).split((K, K, V, V), dim=1)
    rates = layer.in_proj_ba.weight.unflatten(0, (H, 2)).unbind(1)
    ours = {
        "query.weight": joined[0].flatten(0, 1),
        "key.weight": joined[1].flatten(0, 1),
        "value.weight": joined[2].flatten(0, 1),
        "gate.weight": joined[3].flatten(0, 1),
        "beta.weight": rates[0],
        "retention.step.weight": rates[1],
        "retention.log_rate": layer.A_log,
        "retention.alpha_bias": layer.dt_bias,
        "convolution.weight": layer.conv1d.weight[:, 0],
        "norm.weight": layer.norm.weight,
        "output.weight": layer.out_proj.weight,
    }
    memory.load_state_dict(ours)
    return memory


@torch.no_grad()
def test_gated_delta_net_matches_qwen3_next():
    """With copied weights: prefill past a chunk, then token by token with a cache."""
    config, layer = qwen3_next()
    memory = with_weights_of(layer)
    x = sequence(75, width=24).float()
    cache = DynamicCache(config=config)
    expected = [layer(x[:, :70], cache_params=cache)]
    expected += [layer(x[:, t : t + 1], cache_params=cache) for t in range(70, 75)]
    y, state = memory(x[:, :70])
    found = [y]
    for t in range(70, 75):
        y, state = memory(x[:, t : t + 1], state)
        found.append(y)
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want)
    assert_close(state.weight.mT, cache.layers[0].recurrent_states[0])


# reductions: one memory with some constants set is another


def copy_shared(target, source):
    shared = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if name in shared:
                parameter.copy_(shared[name])
    return target


def keep_all(memory):
    """Set the rate of decay to zero: alpha is exactly one."""
    with torch.no_grad():
        memory.retention.log_rate.fill_(-math.inf)
    return memory


def plain(kind, **options):
    return build(kind, key_share=1.0, expand_value=1.0, output_gate=False, **options)


def assert_same(one, other):
    x = sequence(67)
    (y, state), (z, same) = one(x), other(x)
    assert_close(y, z)
    assert_close(state.weight, same.weight)


@pytest.mark.parametrize("allow_neg_eigval", [False, True])
def test_gated_delta_net_without_decay_is_delta_net(allow_neg_eigval):
    delta = build(DeltaNet, allow_neg_eigval=allow_neg_eigval)
    gated = copy_shared(plain(GatedDeltaNet, allow_neg_eigval=allow_neg_eigval), delta)
    assert_same(keep_all(gated), delta)


def feedback(comba, erase_logit):
    """Set p = b k for this logit of b, and no correction of the output."""
    with torch.no_grad():
        comba.erase_logit.copy_(torch.as_tensor(erase_logit))
        comba.correction.zero_()
    return comba


def test_comba_without_decay_and_with_full_feedback_is_delta_net():
    delta = build(DeltaNet)
    assert_same(keep_all(feedback(copy_shared(plain(Comba), delta), 60.0)), delta)


def test_comba_with_the_decay_as_feedback_is_gated_delta_net():
    """alpha M - beta b (M k) k^T with b = alpha is alpha M (I - beta k k^T); alpha constant."""
    gated = plain(GatedDeltaNet)
    with torch.no_grad():
        gated.retention.step.weight.zero_()
        alpha = gated.retention(sequence(1))[0, 0]
    comba = copy_shared(plain(Comba, form="paper"), gated)
    assert_same(feedback(comba, torch.logit(alpha)), gated)


def test_comba_without_feedback_and_decay_only_adds():
    comba = keep_all(feedback(plain(Comba, form="paper"), -math.inf))
    x = sequence(9)
    weight = comba(x)[1].weight
    q, k, v = (heads_of(m, x, 2) for m in (comba.query, comba.key, comba.value))
    joined = torch.cat([part.flatten(-2) for part in (q, k, v)], -1)
    z, _ = comba.convolution(joined, comba.convolution.init_tail(2))
    _, k, v = (part.unflatten(-1, (2, -1)) for part in z.split((8, 8, 8), -1))
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    beta = torch.sigmoid(comba.beta(x))
    assert_close(weight, torch.einsum("bth,bthv,bthk->bhvk", beta, v, k))


# reductions of self_titans with a matrix


class Given(nn.Module):
    """A stand-in for a map with a given output."""

    def __init__(self, value):
        super().__init__()
        self.value, self.weight = value, value.new_zeros(())

    def forward(self, x):
        return self.value


def self_titans(rule, objective, period, alpha_is_one):
    """Matrix memories that start at zero, with constant memories for k, v and the rates."""
    config = SelfTitans.Config(
        period=period,
        projection_period=32,
        network="matrix",
        momentum=False,
        rule=rule,
        objective=objective,
        clip=1e9,
    )
    module = build_titans(config)
    if alpha_is_one:
        with torch.no_grad():
            module.alpha_weight.zero_()
            module.alpha_bias.fill_(60.0)
    return module


def build_titans(config):
    module = SelfTitans(config, hidden_size=8, num_heads=2).double()
    generator = torch.Generator().manual_seed(0)
    module.init_weights(generator)
    with torch.no_grad():
        module.projection.weight.normal_(0, 0.5, generator=generator)
        for weight in (module.eta_weight, module.alpha_weight, module.alpha_bias):
            weight.normal_(0, 1, generator=generator)
        module.initial_first.zero_()
    return module


def made(module, x):
    """k, v, alpha and eta of each token: the memories that make them are the identity."""
    projected, _ = module.convolution(module.projection(x), module.convolution.init_tail(len(x)))
    _, k, v = functional.normalize(projected.unflatten(-1, (3, 2, -1)), dim=-1).unbind(2)
    alpha = torch.sigmoid((k * module.alpha_weight).sum(-1) + module.alpha_bias)
    eta = torch.sigmoid((k * module.eta_weight).sum(-1) + module.eta_bias)
    return k, v, alpha, eta


def states(module, x):
    """The deviation of the output memory after each token."""
    state, found = None, []
    for t in range(x.shape[1]):
        _, state = module(x[:, t : t + 1], state)
        found.append(state.weight.first[:, :, -1])
    return torch.stack(found, 1)


def assert_states(memory, tokens, expected):
    weight = torch.zeros_like(expected[:, 0])
    for t in range(expected.shape[1]):
        here = type(tokens)(*(None if x is None else x[:, t : t + 1] for x in tokens))
        _, weight = scan(here, weight, Flow())
        assert_close(weight, expected[:, t])
    assert weight.norm() > 0.1, memory


@torch.no_grad()
def test_self_titans_gd_dot_without_decay_is_linear_attention():
    """The matrix of sums; its keys are made positive, as phi makes them, and phi(log k) = k < 1."""
    module, x = self_titans("gd", "dot", 32, alpha_is_one=True), sequence(20).abs()
    module.projection.weight.abs_()
    module.convolution.weight.abs_()
    k, v, _, eta = made(module, x)
    expected = states(module, x)
    linear = build("linear_attention")
    fresh = linear.init_state(2)
    for length in (1, 7, 20):
        linear.key = Given(k.log().flatten(-2)[:, :length])
        linear.value = Given((eta[..., None] * v).flatten(-2)[:, :length])
        _, state = linear(x[:, :length], fresh)
        assert_close(state.weight[:, :, :-1], expected[:, length - 1])
        assert_close(state.weight[:, :, -1], k[:, :length].sum(1))


@torch.no_grad()
def test_self_titans_gd_l2_at_every_token_is_delta_net(exact_units):
    """Its value is its own target minus the key, since M(k) = k + W k."""
    module, x = self_titans("gd", "l2", 1, alpha_is_one=True), sequence(20)
    k, v, _, eta = made(module, x)
    expected = states(module, x)
    before = torch.cat([torch.zeros_like(expected[:, :1]), expected[:, :-1]], 1)
    target = functional.normalize(v + torch.einsum("bthvk,bthk->bthv", before, v), dim=-1) - k
    delta = build(DeltaNet)
    delta.beta = Given(torch.logit(eta))
    assert_states(delta, delta.tokens(x, k, k, target), expected)


@torch.no_grad()
def test_self_titans_dgd_dot_without_decay_is_delta_net(exact_units):
    module, x = self_titans("dgd", "dot", 32, alpha_is_one=True), sequence(20)
    k, v, _, eta = made(module, x)
    delta = build(DeltaNet)
    delta.beta = Given(torch.logit(eta))
    assert_states(delta, delta.tokens(x, k, k, v), states(module, x))


@torch.no_grad()
def test_self_titans_dgd_dot_is_comba_and_gated_delta_net(exact_units):
    """Gated DeltaNet decays first, so its rate is eta / alpha and its value alpha v."""
    module, x = self_titans("dgd", "dot", 32, alpha_is_one=False), sequence(20)
    module.alpha_bias.fill_(2.0)
    module.eta_bias.fill_(-2.0)
    k, v, alpha, eta = made(module, x)
    expected = states(module, x)
    comba = feedback(build(Comba), 60.0)
    comba.beta, comba.retention = Given(torch.logit(eta)), Given(alpha)
    assert_states(comba, comba.tokens(x, k, k, v), expected)
    gated = build(GatedDeltaNet, allow_neg_eigval=True)
    gated.beta, gated.retention = Given(torch.logit(eta / alpha / 2)), Given(alpha)
    assert_states(gated, gated.tokens(x, k, k, alpha[..., None] * v), expected)


# precision, bounds, mistakes


@pytest.mark.parametrize("kind", [GatedDeltaNet, Comba])
def test_retentions_start_in_the_published_range(kind):
    """A in [0.01, 16] and steps in [0.001, 0.1], drawn anew for each head."""
    retention = build(kind, width=512, heads=64, strong=False).retention
    rate, step = retention.log_rate.exp(), functional.softplus(retention.alpha_bias)
    for drawn, low, high in ((rate, 0.01, 16.0), (step, 1e-3, 1e-1)):
        assert low <= drawn.min() < low + (high - low) / 4 < high / 2 < drawn.max() <= high
    alpha = torch.exp(-rate * step)
    assert_close(retention(torch.zeros(1, 1, 512).double())[0, 0], alpha)


def test_retnet_decays_halve_their_distance_to_one():
    decay = build("retnet", width=32, heads=4).decay()
    assert decay.tolist() == [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128, 1 - 1 / 256]


@every_member
def test_matrix_state_stays_float32_in_bfloat16_and_autocast(name):
    memory, x = build(name, width=16, strong=False), sequence(9, width=16)
    low, state = memory.bfloat16()(x.bfloat16())
    whole, _ = memory.double()(x.bfloat16().double())
    assert low.dtype == torch.bfloat16 and state.weight.dtype == torch.float32
    assert_close(low, whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, state = memory.float()(x.bfloat16().float())
    assert mixed.dtype == torch.bfloat16 and state.weight.dtype == torch.float32
    assert_close(mixed, whole)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delta_net", {"allow_neg_eigval": True}),
        ("gated_delta_net", {"allow_neg_eigval": True}),
        ("comba", {}),
        ("comba", {"form": "paper"}),
        ("oja_net", {}),
    ],
)
@torch.no_grad()
def test_equal_keys_at_the_largest_rate_stay_bounded(name, options):
    """One repeated key, random values, beta at its limit and no decay."""
    memory = build(name, **options).float()
    if name != "delta_net":
        keep_all(memory)
    memory.beta = Given(torch.full((1, 2000, 2), 30.0))
    x = sequence(2000, batch=1).float()
    state = memory.init_state(1)
    memory.key = Given(torch.ones(1, 2000, memory.num_heads * memory.keys))
    y, state = memory(x, state)
    assert y.isfinite().all()
    largest = 2 * 2000**0.5 * memory.value(x).norm(dim=-1).max()
    assert state.weight.norm() < largest


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear_attention", {"epsilon": 0.0}, "epsilon"),
        ("retnet", {"theta": 0.5}, "theta"),
        ("retnet", {"expand_value": 0.3}, "2.4 channels do not split into 2 heads"),
        ("delta_net", {"convolution": 0}, "convolution"),
        ("gated_delta_net", {"key_share": 0.3}, "2.4 channels do not split into 2 heads"),
        ("comba", {"key_share": 0.01}, "channels do not split"),
    ],
)
def test_invalid_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, **options)


@every_member
def test_heads_must_divide_the_width(name):
    with pytest.raises(UserError, match="do not split into 5 heads"):
        build(name, width=8, heads=5)
