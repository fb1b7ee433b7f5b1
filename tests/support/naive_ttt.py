"""Test-time training layers token by token, as in the equations; shares no library code.

One row and one head at a time; the inner gradient comes from torch.func.grad of the inner loss for
every token by itself, never from a formula of ours.
"""

import torch
from torch.nn import functional


def network(weights, x):
    """W x + b; with two layers, GELU between them."""
    for index, (weight, bias) in enumerate(weights):
        x = functional.gelu(x, approximate="tanh") if index else x
        x = weight @ x + bias
    return x


def inner_model(weights, scale, shift, x):
    return x + functional.layer_norm(network(weights, x), scale.shape, scale, shift, eps=1e-6)


def inner_loss(weights, scale, shift, k, v):
    return 0.5 * (inner_model(weights, scale, shift, k) - v).square().sum()


def rotated(x, position):
    """Pairs of neighbours as complex numbers, turned by position * 10000^(-2 i / d)."""
    frequencies = 10000.0 ** (-torch.arange(0, len(x), 2, dtype=x.dtype) / len(x))
    turn = torch.polar(torch.ones_like(frequencies), position * frequencies)
    return torch.view_as_real(torch.view_as_complex(x.view(-1, 2)) * turn).flatten()


def convolved(convolution, x, starts):
    """Causal and depth-wise, each token seeing its own document only."""
    rows = []
    for t in range(len(x)):
        width = convolution.weight.shape[1]
        lags = [lag for lag in range(width) if t - lag >= starts[t]]
        rows.append(convolution.bias + sum(convolution.weight[:, -1 - i] * x[t - i] for i in lags))
    return torch.stack(rows)


def ttt(module, x, reset=None):
    """The whole layer for x [B, T, D]; the outputs, and for each row its inner models at the end:
    the weights that opened the mini-batch, and the weights after the last token, by head."""
    rows = [one_row(module, x[b], None if reset is None else reset[b]) for b in range(len(x))]
    return torch.stack([y for y, _ in rows]), [models for _, models in rows]


def one_row(module, x, reset):
    heads, width = module.num_heads, x.shape[-1] // module.num_heads
    starts, start = [], 0
    for t in range(len(x)):
        start = t if reset is not None and reset[t] else start
        starts.append(start)
    if module.mixer is not None:
        x = x + convolved(module.mixer, module.mixer_norm(x), starts)
    inputs = module.norm(x)
    q, v = module.query(inputs), module.value(inputs)
    if module.convolution is None:
        k = module.key(inputs)
    else:
        q, k = convolved(module.convolution, torch.cat((q, q), -1), starts).chunk(2, -1)
    split = [part.view(len(x), heads, width) for part in (q, k, v)]
    read = [
        one_head(module, h, inputs, *(part[:, h] for part in split), starts) for h in range(heads)
    ]
    y = module.output_norm(torch.stack([outputs for outputs, _ in read], dim=1).flatten(1))
    if module.gate is not None:
        y = y * functional.gelu(module.gate(inputs), approximate="tanh")
    return x + module.output(y), [models for _, models in read]


def one_head(module, head, inputs, qs, ks, vs, starts):
    config, width = module.config, qs.shape[-1]
    scale = module.inner_scale.view(-1, width)[head]
    shift = module.inner_shift.view(-1, width)[head]
    initial = [
        (weight[head], bias.view(len(weight), -1)[head])
        for weight, bias in zip(module.initial_weights, module.initial_biases, strict=True)
    ]
    outputs = []
    for t in range(len(qs)):
        place = (t - starts[t]) % config.mini_batch
        if t == starts[t]:
            running = initial
        if place == 0:
            anchor = running
            total = [tuple(torch.zeros_like(x) for x in layer) for layer in anchor]
        q, k = rotated(qs[t], place), rotated(ks[t], place)
        gate = torch.sigmoid(module.eta_weight[head] @ inputs[t] + module.eta_bias[head])
        eta = config.eta_base * gate / width
        gradient = torch.func.grad(inner_loss)(anchor, scale, shift, k, vs[t])
        total = [
            tuple(x + eta * g for x, g in zip(*layers, strict=True))
            for layers in zip(total, gradient, strict=True)
        ]
        c = torch.relu(1 / (place + 1) + module.token_scale[place])
        running = [
            tuple(w - c * g for w, g in zip(*layers, strict=True))
            for layers in zip(anchor, total, strict=True)
        ]
        outputs.append(inner_model(running, scale, shift, q))
    return torch.stack(outputs), (anchor, running, total)
