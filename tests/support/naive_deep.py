"""The deep memories token by token, as in the equations; shares no code with the library.

One row and one head at a time; gradients come from torch.func.grad of the loss.
"""

import functools
import itertools
from collections import Counter

import torch
from torch.nn import functional


def inputs_of_layers(weights, features):
    """phi(x), and the hidden values."""
    inputs = [features]
    for w in weights[:-1]:
        inputs.append(functional.gelu(w @ inputs[-1]))
    return inputs


def network(weights, x, phi):
    """M(x) = x + W_L gelu(... gelu(W_1 phi(x)))."""
    return x + weights[-1] @ inputs_of_layers(weights, phi(x))[-1]


@functools.cache
def monomials(width, degree):
    """Where the first copy of each monomial is in the tensor power, and how many there are."""
    kinds = [tuple(sorted(index)) for index in itertools.product(range(width), repeat=degree)]
    counts = dict(sorted(Counter(kinds).items()))
    return [kinds.index(kind) for kind in counts], list(counts.values())


def polynomial(module):
    """phi: the sequence of tensor powers, whose inner products are polynomials."""
    if module.features is None:
        return lambda x: x
    scales = module.features.degree_weight / module.features.degree_weight.norm()

    def phi(x):
        """The distinct monomials of the tensor power, with multiplicities."""
        found = [scales[0][None]]
        power = torch.ones(1, dtype=x.dtype)
        for degree, scale in enumerate(scales[1:], 1):
            power = torch.outer(power, x).flatten()
            places, copies = monomials(len(x), degree)
            found.append(scale * torch.tensor(copies, dtype=x.dtype).sqrt() * power[places])
        return torch.cat(found)

    return phi


def gradients(weights, k, v, phi, objective, clip):
    """Gradient of the loss for every layer."""

    def loss(weights):
        y = network(weights, k, phi)
        return -(y @ v) if objective == "dot" else 0.5 * (y - v).square().sum()

    found = torch.func.grad(loss)(tuple(weights))
    if objective == "dot":
        return found
    error = (network(weights, k, phi) - v).square().mean().sqrt()
    return tuple(clip / error.clamp(min=clip) * g for g in found)


def convolve(module, x, reset):
    projected, weight = module.projection(x), module.convolution.weight
    rows, start = [], 0
    for t in range(len(x)):
        start = t if reset[t] else start
        lags = range(min(weight.shape[1], t - start + 1))
        rows.append(functional.silu(sum(weight[:, -1 - lag] * projected[t - lag] for lag in lags)))
    return torch.stack(rows)


def unit(x):
    return x / x.norm().clamp(min=1e-6)


class Head:
    """One head of a memory in one row; ``step`` is the memory's rule, the rest is shared."""

    dot = False

    def __init__(self, module, head, step, strength):
        self.module, self.head, self.step, self.strength = module, head, step, strength
        self.phi = polynomial(module)
        self.start()

    def start(self):
        """A document begins."""
        self.initial = [w[self.head] for w in self.module.initial_layers]
        self.weight = self.anchor = list(self.initial)
        self.momentum = [torch.zeros_like(w) for w in self.initial]
        self.window, self.count = [], 0

    def gate(self, name, x):
        weight, bias = (getattr(self.module, f"{name}_{part}") for part in ("weight", "bias"))
        return torch.sigmoid(weight[self.head] @ x + bias[self.head])

    def gradient(self):
        """Sum over the window of strength times gradient, each at the anchor."""
        module, total = self.module, [torch.zeros_like(w) for w in self.initial]
        for k, v, strength in self.window:
            objective, clip = ("dot", None) if self.dot else ("l2", module.config.clip)
            found = gradients(self.anchor, k, v, self.phi, objective, clip)
            for layer, u in enumerate(inputs_of_layers(self.anchor, self.phi(k))):
                step = strength
                if layer:
                    step = strength / (module.options.epsilon + u.square().sum())
                total[layer] = total[layer] + step * found[layer]
        return total

    def read(self, x, q, k, v):
        """Write one token and read the memory."""
        gates = {name: self.gate(name, x) for name in ("alpha", *self.module.gate_starts)}
        window = self.module.window
        self.window = [*self.window, (k, v, self.strength(gates))][-window:]
        change = self.step(self, gates)
        init = self.module.options.decay_to == "init"
        for layer, start in enumerate(self.initial):
            towards = start if init else torch.zeros_like(start)
            kept = towards + gates["alpha"] * (self.weight[layer] - towards)
            self.weight = [*self.weight]
            self.weight[layer] = kept + change[layer]
        y = network(self.weight, q, self.phi)
        self.count += 1
        if self.count % self.module.options.period == 0:
            self.anchor = self.weight
        return y


class DotHead(Head):
    """Deep linear attention: the loss is a dot product."""

    dot = True


def deep(module, x, step, strength, reset=None, kind=Head):
    """The whole memory for x [B, T, D]: outputs, and the final heads."""
    reset = torch.zeros(x.shape[:2], dtype=torch.bool) if reset is None else reset
    rows, states = [], []
    for b in range(len(x)):
        heads = [kind(module, h, step, strength) for h in range(module.num_heads)]
        parts = convolve(module, x[b], reset[b]).view(len(x[b]), 3, module.num_heads, -1)
        outputs = []
        for t in range(len(x[b])):
            if reset[b, t]:
                for head in heads:
                    head.start()
            q, k, v = parts[t]
            reads = [
                head.read(x[b, t], unit(q[h]), unit(k[h]), v[h]) for h, head in enumerate(heads)
            ]
            y = module.norm(torch.stack(reads)).flatten()
            outputs.append(module.output(y * functional.silu(module.gate(x[b, t]))))
        rows.append(torch.stack(outputs))
        states.append(heads)
    return torch.stack(rows), states
