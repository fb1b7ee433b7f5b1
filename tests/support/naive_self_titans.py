"""Self-modifying Titans token by token, as the equations read: slow, and nothing shared.

Eq numbers of arXiv 2512.24695. One row, one head, one memory at a time; the inner gradient comes
from torch.func.grad of the printed objective, never from a formula of ours.
"""

import torch
from torch.nn import functional


def network(weights, x):
    """M(x) = x + W_1 gelu(W_2 x), or x + W x (Eq 89, 91)."""
    z = weights[0] @ x
    return x + (z if len(weights) == 1 else weights[1] @ functional.gelu(z))


def inputs_of_layers(weights, x):
    return [x] if len(weights) == 1 else [x, functional.gelu(weights[0] @ x)]


def unit(x):
    return x / x.norm().clamp(min=1e-6)


def gradients_of_outputs(weights, k, target, objective, clip):
    """Gradient of the objective for each layer's output, at the anchor."""

    def loss(shifts):
        z = weights[0] @ k + shifts[0]
        out = k + (z if len(weights) == 1 else weights[1] @ functional.gelu(z) + shifts[1])
        if objective == "dot":
            return -(out * target).sum()
        return 0.5 * (out - target).square().sum()

    shifts = [torch.zeros(w.shape[0], dtype=k.dtype) for w in weights]
    last = torch.func.grad(loss)(shifts)[-1]
    factor = clip / last.norm().clamp(min=clip)
    # the clip scales the gradient at the output, and so at every layer
    return [factor * g for g in torch.func.grad(loss)(shifts)]


def self_titans(module, x, *, reset=None):
    """The whole memory for x [B, T, D] in plain loops; returns y [B, T, D]."""
    rows = [one_row(module, x[b], None if reset is None else reset[b]) for b in range(len(x))]
    return torch.stack(rows)


def one_row(module, x, reset):
    heads, width = module.num_heads, x.shape[-1] // module.num_heads
    projected = convolve(module, x, reset)
    q, k, v = projected.view(len(x), 3, heads, width).unbind(1)
    outputs = torch.stack(
        [one_head(module, h, x, q[:, h], k[:, h], v[:, h], reset) for h in range(heads)], dim=1
    )
    y = module.norm(outputs).flatten(1)
    return module.output(y * functional.silu(module.gate(x)))


def convolve(module, x, reset):
    projected, weight = module.projection(x), module.convolution.weight
    rows, start = [], 0
    for t in range(len(x)):
        if reset is not None and reset[t]:
            start = t
        taps = [
            weight[:, -1 - lag] * projected[t - lag]
            for lag in range(weight.shape[1])
            if t - lag >= start
        ]
        rows.append(functional.silu(sum(taps)))
    return torch.stack(rows)


def one_head(module, head, x, qs, ks, vs, reset):
    config, names = module.config, module.names
    first, second = module.initial_first[head], module.initial_second
    layers = [first] if second is None else [first, second[head]]
    initial = {n: [w[i] for w in layers] for i, n in enumerate(names)}
    zero = [torch.zeros_like(w) for w in initial["memory"]]
    outputs = []
    for t in range(len(qs)):
        if t == 0 or (reset is not None and reset[t]):
            anchor, weight = dict(initial), dict(initial)
            momentum, count = {n: zero for n in names}, 0
        x_q, x_k, x_v = unit(qs[t]), unit(ks[t]), unit(vs[t])
        # Eq 83: every quantity is the output of its own memory
        k = unit(network(anchor["k"], x_k))
        v = unit(network(anchor["v"], x_v))
        q = unit(network(anchor["q"], x_q)) if config.adaptive_q else x_q
        alpha = torch.sigmoid(
            module.alpha_weight[head] @ network(anchor["alpha"], x_k) + module.alpha_bias[head]
        )
        eta = torch.sigmoid(
            module.eta_weight[head] @ network(anchor["eta"], x_k) + module.eta_bias[head]
        )
        eta = eta * torch.minimum(1 + alpha, torch.tensor(config.eta_max, dtype=eta.dtype))
        mu = torch.zeros_like(eta)
        if config.momentum:
            mu = torch.sigmoid(module.mu_weight[head] @ x[t] + module.mu_bias[head])
        before = weight["memory"]
        new_weight, new_momentum = {}, {}
        for n in names:
            target = unit(network(anchor[n], v))  # Eq 84: its own target
            longest = config.clip
            if n != "memory" and config.projection_clip is not None:
                longest = config.projection_clip
            grads = gradients_of_outputs(anchor[n], k, target, config.objective, longest)
            layer_inputs = inputs_of_layers(anchor[n], k)
            new_weight[n], new_momentum[n] = [], []
            for i, (u, g) in enumerate(zip(layer_inputs, grads, strict=True)):
                beta = eta if i == 0 else eta / (config.epsilon + u.square().sum())
                w, s, start = weight[n][i], momentum[n][i], initial[n][i]
                s = mu * s - (1 - mu) * beta * torch.outer(g, u)
                towards = start if config.decay_to == "init" else torch.zeros_like(start)
                moved = towards + alpha * (w - towards) + s
                if config.rule == "dgd":  # Eq 88
                    seen = w if config.erase == "whole" else w - towards
                    moved = moved - beta * torch.outer(seen @ u, u)
                new_weight[n].append(moved)
                new_momentum[n].append(s)
        weight, momentum = new_weight, new_momentum
        source = {"post": weight["memory"], "pre": before, "anchor": anchor["memory"]}
        outputs.append(network(source[config.read], q))
        count += 1
        for n in names:
            period = config.period if n == "memory" else config.projection_period
            if count % period == 0:
                anchor = {**anchor, n: weight[n]}
    return torch.stack(outputs)
