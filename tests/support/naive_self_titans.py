"""Self-modifying Titans token by token, as in the equations; shares no code with the library.

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


def divisor(config, layer, eta, u):
    """The divisor of a layer's step."""
    power = u.square().sum()
    if config.step == "proximal":
        return 1 + eta * power
    return config.epsilon + power if layer and config.step == "energy" else 1.0


def rows_of(config, rate, layer, weights):
    """A rate, shaped to multiply a weight of the layer: a number, or a column."""
    if config.rates == "head":
        return rate
    first = weights[0].shape[0]
    return (rate[first:] if layer else rate[:first])[:, None]


def unit(x):
    return x / x.norm().clamp(min=1e-6)


def gradients_of_outputs(weights, k, v, objective, clip, given=False):
    """Gradients of the objective for each layer's output, at the anchor: at k, and at v.

    Those at v go through the target that the memory makes of v; ``given``: the target is v.
    """

    def answer(x, shifts):
        z = weights[0] @ x + shifts[0]
        return x + (z if len(weights) == 1 else weights[1] @ functional.gelu(z) + shifts[1])

    def loss(at_k, at_v):
        out, target = answer(k, at_k), v if given else unit(answer(v, at_v))
        if objective == "dot":
            return -(out * target).sum()
        return 0.5 * (out - target).square().sum()

    shifts = [torch.zeros(w.shape[0], dtype=k.dtype) for w in weights]
    both = torch.func.grad(loss, argnums=(0, 1))(shifts, shifts)
    # the clip scales the gradient at the output, and so at every layer
    return [[g * (clip / gs[-1].norm().clamp(min=clip)) for g in gs] for gs in both]


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
        inputs = {"k": x_k, "eta": x_k, "alpha": x_k, "v": x_v, "q": x_q}
        made = {n: network(anchor[n], x) if n in names else x for n, x in inputs.items()}
        k, v = unit(made["k"]), unit(made["v"])
        q = unit(made["q"]) if config.adaptive_q else x_q
        eta = torch.sigmoid(module.eta_weight[head] @ made["eta"] + module.eta_bias[head])
        alpha = torch.ones_like(eta)
        if config.decay:
            alpha = module.alpha_weight[head] @ made["alpha"] + module.alpha_bias[head]
            alpha = torch.sigmoid(alpha)
        eta = eta * torch.minimum(1 + alpha, torch.tensor(config.eta_max, dtype=eta.dtype))
        mu = torch.zeros((), dtype=eta.dtype)
        if config.momentum:
            mu = torch.sigmoid(module.mu_weight[head] @ x[t] + module.mu_bias[head])
        before = weight["memory"]
        new_weight, new_momentum = {}, {}
        for n in names:
            longest = config.clip
            if n != "memory" and config.projection_clip is not None:
                longest = config.projection_clip
            key, given = k, config.values == "shared"
            if given and n != "memory":
                # Eq 80: the key is the memory's own output; Eq 81: k for the output memory
                key = {"k": k, "v": v, "q": q}[n] if n in "kvq" else unit(made[n])
            # Eq 84: each memory's own target
            at_k, at_v = gradients_of_outputs(anchor[n], key, v, config.objective, longest, given)
            us, targets = inputs_of_layers(anchor[n], key), inputs_of_layers(anchor[n], v)
            new_weight[n], new_momentum[n] = [], []
            for i, (u, g) in enumerate(zip(us, at_k, strict=True)):
                w, s, start = weight[n][i], momentum[n][i], initial[n][i]
                rate, keep = (rows_of(config, x, i, anchor[n]) for x in (eta, alpha))
                beta = rate / divisor(config, i, rate, u)
                change = beta * torch.outer(g, u)
                if not config.detach_target:
                    more = rate / divisor(config, i, rate, targets[i])
                    change = change + more * torch.outer(at_v[i], targets[i])
                s = mu * s - ((1 - mu) if config.normalised_momentum else 1) * change
                towards = start if config.decay_to == "init" else torch.zeros_like(start)
                moved = towards + keep * (w - towards) + s
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
