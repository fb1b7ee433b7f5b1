"""Titans token by token, as in arXiv 2501.00663; shares no code with the library.

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
    """Gradient of |M(k) - v|^2 / 2 for each weight, with the error clipped."""

    def loss(layers):
        error = network(layers, k) - v
        return 0.5 * error.square().sum()

    size = (network(weights, k) - v).square().mean().sqrt()
    factor = clip / size.clamp(min=clip)
    return [factor * g for g in torch.func.grad(loss)(list(weights))]


class Head:
    """One head of one row's long-term memory (section 3.1), one token at a time."""

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
        """Write (k, v) with the gates of x; returns the read at q afterwards."""
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
    """The heads at the start of a document, and their outputs for the persistent tokens."""
    heads = [Head(memory, h) for h in range(memory.num_heads)]
    reads = []
    if persistent is not None:
        reads = read(memory, heads, persistent)
        for head in heads:
            head.open_period()
    return heads, reads


def read(memory, heads, x):
    """Write and read x [T, D] of one document; returns the raw reads, a list of [D]."""
    rows = convolve(memory, x, None).view(len(x), 3, len(heads), -1)
    return [
        torch.cat([head.token(x[t], *rows[t, :, h]) for h, head in enumerate(heads)])
        for t in range(len(x))
    ]


def documents(x, reset):
    """[T, D] cut where documents start."""
    cuts = [0, *(t for t in range(1, len(x)) if reset is not None and reset[t]), len(x)]
    return [x[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def each_document(one, module, x, reset=None):
    """``one`` over every document of every row of x [B, T, D]."""
    rows = []
    for b in range(len(x)):
        parts = documents(x[b], None if reset is None else reset[b])
        rows.append(torch.cat([one(module, part) for part in parts]))
    return torch.stack(rows)


def titans(module, x):
    """The memory alone: one document of x [T, D]."""
    heads, _ = heads_of(module.memory, module.persistent())
    return close(module, torch.stack(read(module.memory, heads, x)), x)


def close(module, y, x):
    heads = y.view(len(y), module.memory.num_heads, -1)
    return module.output(module.norm(heads).flatten(1) * functional.silu(module.gate(x)))


def rotated(x, position, theta):
    """Rotary embedding of one vector, coordinate i paired with i + half."""
    half = len(x) // 2
    angle = torch.tensor([position * theta ** (-i / half) for i in range(half)], dtype=x.dtype)
    turn = torch.polar(torch.ones_like(angle), angle)
    z = torch.complex(x[:half], x[half:]) * turn
    return torch.cat([z.real, z.imag])


def answer(attention, x, position, context):
    """Softmax attention of token x to a context of (token, position), head by head."""
    width, theta = attention.head_size, attention.config.rope_theta
    group = attention.num_heads // attention.num_kv_heads
    heads = []
    for h in range(attention.num_heads):
        mine = slice(h * width, (h + 1) * width)
        theirs = slice(h // group * width, (h // group + 1) * width)
        q = rotated((attention.query.weight @ x)[mine], position, theta)
        keys = [rotated((attention.key.weight @ c)[theirs], p, theta) for c, p in context]
        values = [(attention.value.weight @ c)[theirs] for c, _ in context]
        scores = torch.stack([q @ k for k in keys]) / width**0.5
        heads.append(torch.softmax(scores, 0) @ torch.stack(values))
    return torch.cat(heads)


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def gated(gating, y, m):
    """The product of section 4: learned norms, then the non-linearity."""
    return rms(y, gating.norm.weight) * functional.silu(rms(m, gating.memory_norm.weight))


def mag(module, x):
    """One document of x [T, D]: section 4.2."""
    window, prefix = module.config.window, placed(module.persistent())
    heads, _ = heads_of(module.memory, module.persistent())
    reads = read(module.memory, heads, x)
    rows = []
    for t in range(len(x)):
        context = [(x[s], s) for s in range(max(0, t - window + 1), t + 1)]
        y = answer(module.attention, x[t], t, prefix + context)
        rows.append(module.attention.output(gated(module.gating, y, reads[t])))
    return torch.stack(rows)


def placed(persistent):
    """Persistent tokens and their places, which end before 0."""
    return (
        [] if persistent is None else [(p, i - len(persistent)) for i, p in enumerate(persistent)]
    )


def mal(module, x):
    """One document of x [T, D]: section 4.3, attention over the outputs for P and x."""
    lmm = module.memory
    heads, first = heads_of(lmm.memory, lmm.persistent())
    inputs = x if lmm.persistent() is None else torch.cat([lmm.persistent(), x])
    m = close(lmm, torch.stack([*first, *read(lmm.memory, heads, x)]), inputs)
    m = [rms(row, module.norm.weight) for row in m]
    rows = []
    for t in range(len(first), len(m)):
        seen = range(max(0, t - module.config.window + 1), t + 1)
        y = answer(module.attention, m[t], t, [(m[s], s) for s in seen])
        rows.append(module.attention.output(y))
    return torch.stack(rows)


def mac(module, x):
    """One document of x [T, D]: section 4.1, token i of a segment sees h_j and S_j of j <= i."""
    size, memory, queries = module.config.period, module.memory, recall_queries(module, x)
    heads, _ = heads_of(memory, None)
    persistent = [] if module.persistent() is None else list(module.persistent())
    rows, ys = [], []
    for t in range(len(x)):
        place = t % size
        if place == 0:
            recalled = []
        h = [network(head.anchor, unit(queries[t, i])) for i, head in enumerate(heads)]
        recalled.append(torch.cat([rms(part, module.recall_norm.weight) for part in h]))
        segment = list(x[t - place : t + 1])
        context = list(enumerate(persistent))
        context += [(len(persistent) + i, token) for i, token in enumerate(recalled)]
        context += [(len(persistent) + size + i, token) for i, token in enumerate(segment)]
        position = len(persistent) + size + place
        y = answer(module.attention, x[t], position, [(token, p) for p, token in context])
        ys.append(y)
        q, k, v = convolve(memory, torch.stack(ys), None)[-1].view(3, len(heads), -1)
        m = torch.cat([head.token(y, q[i], k[i], v[i]) for i, head in enumerate(heads)])
        rows.append(module.attention.output(gated(module.gating, y, m)))
    return torch.stack(rows)


def recall_queries(module, x):
    """silu(conv(S W_Q)), cut into heads."""
    projected, weight = module.recall(x), module.recall_convolution.weight
    rows = [
        sum(weight[:, -1 - lag] * projected[t - lag] for lag in range(min(weight.shape[1], t + 1)))
        for t in range(len(x))
    ]
    return functional.silu(torch.stack(rows)).view(len(x), module.num_heads, -1)
