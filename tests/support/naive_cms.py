"""The in-context continuum memory system token by token, with gradients from torch.func.

One row, no chunks, no closed forms: every token's gradient is that of a loss written out, and a
level is written where its period ends.
"""

import torch
from torch.func import grad

SLOPE = 1e-6


def network(theta, h):
    gate, up, output = theta
    z = gate @ h
    return output @ (z * z.sigmoid() * (up @ h))


def pair_loss(theta, key, value, name):
    answer = network(theta, key)
    return -(answer @ value) if name == "dot" else (answer - value).square().sum() / 2


def normalised(level, x):
    return x / (x.square().mean() + SLOPE).sqrt() * level.norm.weight


def written(theta, initial, gradients, config, rate):
    """Clipped gradient descent on the mean, projected to the trust region of the initial state."""
    mean = [torch.stack(g).mean(0) for g in zip(*gradients, strict=True)]
    norm = sum(g.square().sum() for g in mean).sqrt()
    if config.clip is not None and norm > config.clip:
        mean = [g * config.clip / norm for g in mean]
    away = [w - rate * g - i for w, g, i in zip(theta, mean, initial, strict=True)]
    if config.trust is not None:
        radius = config.trust * sum(i.square().sum() for i in initial).sqrt()
        reach = sum(a.square().sum() for a in away).sqrt()
        if reach > radius:
            away = [a * radius / reach for a in away]
    return [i + a for i, a in zip(initial, away, strict=True)]


class Naive:
    """One level of one row, as it reads."""

    def __init__(self, level, config):
        network = level.network
        self.level, self.config = level, config
        self.learned = [network.gate.weight, network.up.weight, network.output.weight]
        self.initial = list(self.learned)
        self.rate = config.learning_rate * level.log_rate.exp()
        self.period = level.level.period
        self.begin()

    def begin(self):
        self.theta, self.gradients, self.last, self.count = list(self.initial), [], None, 0

    def read(self, x, target):
        """What the level adds to one token."""
        h = normalised(self.level, x)
        answer = network(self.theta, h)
        if self.last is not None:
            self.gradients.append(
                grad(pair_loss)(self.theta, self.last, target @ h, self.config.loss)
            )
        self.last, self.count = h, self.count + 1
        return answer

    def close(self):
        """Write if the period is full; returns whether it was."""
        full = self.count % self.period == 0
        if full and self.gradients:
            self.theta = written(self.theta, self.initial, self.gradients, self.config, self.rate)
            self.gradients = []
        return full


def chain(memory, x, starts=()):
    """The sequential variant on [T, D]; ``starts`` are the tokens at which documents start."""
    levels = [Naive(level, memory.config) for level in memory.chain]
    outputs = []
    for t, token in enumerate(x):
        for level in levels:
            if t in starts:
                level.begin()
            token = token + level.read(token, memory.target.weight)
            level.close()
        outputs.append(token)
    return torch.stack(outputs)


def nested(memory, x, starts=()):
    """The nested variant on [T, D]: when a level is written, the faster's start moves."""
    levels = [Naive(level, memory.config) for level in memory.chain]
    shares = memory.share_logit.sigmoid()
    outputs, resets = [], []
    for t, token in enumerate(x):
        for level in levels:
            if t in starts:
                level.initial = list(level.learned)
                level.begin()
            token = token + level.read(token, memory.target.weight)
        closed = [level.close() for level in levels]
        for fast, (share, ended) in enumerate(zip(shares, closed[1:], strict=True)):
            if ended:
                restart(levels[fast], share, memory.config)
                resets.append((t + 1, fast))
        outputs.append(token)
    return torch.stack(outputs), resets


def restart(level, share, config):
    pairs = zip(level.initial, level.theta, strict=True)
    away = [i + share * (w - i) - o for (i, w), o in zip(pairs, level.learned, strict=True)]
    if config.trust is not None:
        radius = config.trust * sum(o.square().sum() for o in level.learned).sqrt()
        reach = sum(a.square().sum() for a in away).sqrt()
        if reach > radius:
            away = [a * radius / reach for a in away]
    level.initial = [o + a for o, a in zip(level.learned, away, strict=True)]
    level.theta = list(level.initial)


def headwise(memory, x):
    """The parallel levels on [T, D], mixed in each head."""
    levels = [Naive(level, memory.config) for level in memory.chain]
    heads = memory.mixture.shape[1]
    outputs = []
    for token in x:
        mixed = token.view(heads, -1)
        for level, logits in zip(levels, memory.mixture, strict=True):
            share = logits.exp() / memory.mixture.exp().sum(0)
            answer = level.read(token, memory.target.weight)
            mixed = mixed + share[:, None] * answer.view(heads, -1)
            level.close()
        outputs.append(mixed.flatten())
    return torch.stack(outputs)
