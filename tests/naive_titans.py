"""Titans token by token, as the equations of arXiv 2501.00663 read: slow, and nothing shared.

One row and one head at a time; the inner gradient comes from torch.func.grad of the loss for the
weights themselves, never from a formula of ours.
"""

import torch
from naive_self_titans import convolve, unit
from torch.nn import functional


def network(weights, x):
    """M(x) = W_L gelu(... gelu(W_1 x))."""
    for layer, weight in enumerate(weights):
        x = weight @ (functional.gelu(x) if layer else x)
    return x


def inputs_of_layers(weights, x):
    found = [x]
    for weight in weights[:-1]:
        found.append(functional.gelu(weight @ found[-1]))
    return found


def surprise(weights, k, v, clip):
    """Gradient of |M(k) - v|^2 / 2 for each weight (Eq 12), the error cut to a length."""

    def loss(layers):
        error = network(layers, k) - v
        return 0.5 * error.square().sum()

    size = (network(weights, k) - v).square().mean().sqrt()
    factor = clip / size.clamp(min=clip)
    return [factor * g for g in torch.func.grad(loss)(list(weights))]


class Head:
    """One head of one row's long-term memory: Eq 11-14, one token at a time."""

    def __init__(self, memory, head):
        self.memory, self.head, self.config = memory, head, memory.config
        self.initial = [w[head] for w in memory.initial_layers]
        self.weight = list(self.initial)
        self.momentum = [torch.zeros_like(w) for w in self.initial]
        self.open_period()

    def open_period(self):
        self.anchor, self.count = list(self.weight), 0

    def gate(self, name, x):
        weight, bias = getattr(self.memory, f"{name}_weight"), getattr(self.memory, f"{name}_bias")
        return torch.sigmoid(weight[self.head] @ x + bias[self.head])

    def token(self, x, q, k, v):
        """Write (k, v) with the gates of x; the read at q after it."""
        config = self.config
        eta = self.gate("eta", x) if config.momentum else torch.zeros((), dtype=x.dtype)
        theta = (1 - eta) * config.theta_max / config.period * self.gate("theta", x)
        alpha = self.gate("alpha", x)
        q, k = unit(q), unit(k)
        grads = surprise(self.anchor, k, v, config.clip)
        for layer, u in enumerate(inputs_of_layers(self.anchor, k)):
            step = theta / (config.epsilon + u.square().sum()) if layer else theta
            self.momentum[layer] = eta * self.momentum[layer] - step * grads[layer]
            start = self.initial[layer]
            towards = start if config.decay_to == "init" else torch.zeros_like(start)
            kept = towards + (1 - alpha) * (self.weight[layer] - towards)
            self.weight[layer] = kept + self.momentum[layer]
        y = network(self.weight, q)
        self.count += 1
        if self.count % config.period == 0:
            self.anchor = list(self.weight)
        return y


def heads_of(memory, persistent):
    """The heads as a document finds them, and what they answered to the persistent tokens."""
    heads = [Head(memory, h) for h in range(memory.num_heads)]
    reads = []
    if persistent is not None:
        reads = read(memory, heads, persistent)
        for head in heads:
            head.open_period()
    return heads, reads


def read(memory, heads, x):
    """Write and read x [T, D] of one document; the raw reads, a list of [D]."""
    rows = convolve(memory, x, None).view(len(x), 3, len(heads), -1)
    return [
        torch.cat([head.token(x[t], *rows[t, :, h]) for h, head in enumerate(heads)])
        for t in range(len(x))
    ]


def documents(x, reset):
    """[T, D] cut where documents start."""
    cuts = [0, *(t for t in range(1, len(x)) if reset is not None and reset[t]), len(x)]
    return [x[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def titans(module, x, reset=None):
    """The memory alone, for x [B, T, D]."""
    rows = []
    for b in range(len(x)):
        parts = []
        for document in documents(x[b], None if reset is None else reset[b]):
            heads, _ = heads_of(module.memory, module.persistent)
            y = torch.stack(read(module.memory, heads, document))
            parts.append(close(module, y, document))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def close(module, y, x):
    heads = y.view(len(y), module.memory.num_heads, -1)
    return module.output(module.norm(heads).flatten(1) * functional.silu(module.gate(x)))
