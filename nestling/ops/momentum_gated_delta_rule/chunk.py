"""The recurrence with decay, eraser and momentum, exactly, C tokens at a time.

Letters as in step.py; t, s = 1..C are the tokens of a chunk, index 0 is its opening state.
A(t,s) and Theta(t,s) are products of alpha and mu over s < i <= t; a = A(t,0), K = A diag(gamma)
Theta with gamma the mask, c = K(t,0); X^- is X one token earlier. Row t of E is W_{t-1} p_t.

    (I + (A^- * P K^T) diag(beta)) E = a^- (P W_0^T) + c^- (P S_0^T) + (K^- * P K^T) w
    Y = a (Q W_0^T) + c (Q S_0^T) + (K * Q K^T) w - (A * Q K^T) (beta E)
    W_C = a_C W_0 + c_C S_0 + (K_C w - A_C beta E)^T K,   S_C = theta_C S_0 + (Theta_C w)^T K

A reset at token i cuts every product that spans i; the weight it starts from, ``initial``, has its
own coefficient b. Without an eraser E is zero and no system is solved.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.named import traceable
from nestling.ops.momentum_gated_delta_rule.passes import advance, carry, read_rows
from nestling.ops.momentum_gated_delta_rule.step import DeltaState


@traceable
class Span(NamedTuple):
    """The coefficients of the state after each token of a chunk, or just before it."""

    start: Float[Tensor, "*N C"]  # of the weight that opened the chunk
    momentum: Float[Tensor, "*N C"] | None  # of the momentum that opened it; None without mu
    writes: Float[Tensor, "*N C C"]  # of each write
    erased: Float[Tensor, "*N C C"]  # of each erased read
    initial: Float[Tensor, "*N C"] | None  # of the initial weight; None without resets

    def map(self, function: Callable[[Tensor], Tensor]) -> "Span":
        """Apply ``function`` to every coefficient."""
        return Span(
            function(self.start),
            None if self.momentum is None else function(self.momentum),
            function(self.writes),
            function(self.erased),
            None if self.initial is None else function(self.initial),
        )


@traceable
class Coefficients(NamedTuple):
    """All gate products of a chunk, or of several chunks at once."""

    after: Span
    before: Span
    momentum_start: Float[Tensor, " *N"] | None  # of the opening momentum at the end; None: 1
    momentum_writes: Float[Tensor, "*N C"] | None  # of each write in it; None without mu

    def map(self, function: Callable[[Tensor], Tensor]) -> "Coefficients":
        """Apply ``function`` to every coefficient."""
        start, writes = self.momentum_start, self.momentum_writes
        return Coefficients(
            self.after.map(function),
            self.before.map(function),
            None if start is None else function(start),
            None if writes is None else function(writes),
        )


class _SegmentProducts(torch.autograd.Function):
    """Cumulative products of masked copies, with a gradient made of products as well.

    The backward pass of torch.cumprod divides, which fails near zeros and subnormal numbers.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor) -> Tensor:
        index = torch.arange(gate.shape[-1] + 1, device=gate.device)
        inside = index[1:, None] > index[None, :]
        factors = torch.where(inside, gate[..., :, None], gate.new_ones(()))
        products = factors.cumprod(dim=-2) * (index[1:, None] >= index[None, :])
        ctx.save_for_backward(products)
        return products

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (grad,) = grads
        # d product(t, s) / d gate(i) = product(t, i) product(i - 1, s) for s < i <= t
        (products,) = ctx.saved_tensors
        first = torch.zeros_like(products[..., :1, :])
        first[..., 0] = 1
        earlier = torch.cat([first, products[..., :-1, :]], dim=-2)
        return ((products[..., 1:].mT @ grad) * earlier).sum(-1)


def segment_products(gate: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C C1"]:
    """Products of ``gate`` over s < i <= t, for t = 1..C (rows) and s = 0..C (columns), else 0.

    Values and gradients are exact for gates of exactly zero or one, unlike with differences of
    logarithms.
    """
    return _SegmentProducts.apply(gate)


def coefficients(
    alpha: Float[Tensor, "*N C"],
    mu: Float[Tensor, "*N C"] | None,
    reset: Bool[Tensor, "*N C"] | None = None,
    mask: Bool[Tensor, "*N C"] | None = None,
) -> Coefficients:
    """The gate products of a chunk. Where ``mask`` is False, alpha and mu count as 1."""
    if mask is not None:
        alpha = torch.where(mask, alpha, alpha.new_ones(()))
        mu = None if mu is None else torch.where(mask, mu, mu.new_ones(()))
    keep = None if reset is None else (~reset).to(alpha.dtype)
    decay = segment_products(alpha if keep is None else alpha * keep)
    retained = decay[..., 1:]
    writes, opened, theta = retained, None, None
    if mu is not None:
        theta = segment_products(mu if keep is None else mu * keep)
        gated = retained if mask is None else retained * mask.to(alpha.dtype)[..., None, :]
        products = gated @ theta
        opened, writes = products[..., 0], products[..., 1:]
    elif mask is not None:
        writes = retained * mask.to(alpha.dtype)[..., None, :]
    initial = None
    if keep is not None:
        initial = (retained * (alpha * (1 - keep))[..., None, :]).sum(-1)
    after = Span(decay[..., 0], opened, writes, retained, initial)
    survives = None if keep is None else keep.prod(-1)
    return Coefficients(
        after,
        _before(after, keep),
        survives if theta is None else theta[..., -1, 0],
        None if theta is None else theta[..., -1, 1:],
    )


def _before(after: Span, keep: Float[Tensor, "*N C"] | None) -> Span:
    """The coefficients just before each token, after its own reset."""
    start = torch.cat([torch.ones_like(after.start[..., :1]), after.start[..., :-1]], -1)
    momentum = None if after.momentum is None else _shift(after.momentum, -1)
    writes, erased = _shift(after.writes, -2), _shift(after.erased, -2)
    if keep is None or after.initial is None:
        return Span(start, momentum, writes, erased, None)
    return Span(
        start * keep,
        None if momentum is None else momentum * keep,
        writes * keep[..., None],
        erased * keep[..., None],
        _shift(after.initial, -1) * keep + (1 - keep),
    )


def _shift(x: Tensor, dim: int) -> Tensor:
    first = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def erased_inverse(
    before: Span, gram: Float[Tensor, "*N C C"], beta: Float[Tensor, "*N C"]
) -> Float[Tensor, "*N C C"]:
    """The inverse of I + (A^- * P K^T) diag(beta), which is unit lower triangular."""
    count = gram.shape[-1]
    eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
    system = before.erased * gram * beta[..., None, :]
    return torch.linalg.solve_triangular(
        system + eye, eye.expand_as(system), upper=False, unitriangular=True
    )


def erase(
    p: Float[Tensor, "*N C K"],
    k: Float[Tensor, "*N S K"],
    w: Float[Tensor, "*M S V"],
    beta: Float[Tensor, "*N C"],
    before: Span,
    inverse: Float[Tensor, "*N C C"],
    state: DeltaState,
    initial: Tensor | None = None,
    base: Tensor | None = None,
) -> tuple[Float[Tensor, "*M C V"], DeltaState]:
    """The value erased at each token of one chunk, beta_t W_{t-1} p_t; also passes the state on.

    ``base`` [*, V, K] is a fixed weight that the eraser reads as well; the state is then the
    deviation from it. There may be several writes w k^T per token if ``before.writes`` [*, C, S]
    has their coefficients. Leading dimensions broadcast.
    """
    seen, weight = read_rows(state.weight, before.start[..., None] * p)
    momentum = state.momentum
    if before.momentum is not None:
        pushed, momentum = read_rows(momentum, before.momentum[..., None] * p)
        seen = seen + pushed
    if before.initial is not None and initial is not None:
        seen = seen + before.initial[..., None] * (p @ initial.mT)
    if base is not None:
        seen = seen + p @ base.mT
    seen = seen + (before.writes * (p @ k.mT)) @ w
    return beta[..., None] * (inverse @ seen), DeltaState(weight, momentum)


def read(
    q: Float[Tensor, "*M C K"],
    k: Float[Tensor, "*N S K"],
    w: Float[Tensor, "*M S V"],
    erased: Float[Tensor, "*M S V"] | None,
    span: Span,
    state: DeltaState,
    initial: Tensor | None = None,
    product: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = read_rows,
) -> tuple[Float[Tensor, "*M C V"], DeltaState]:
    """Read at every token of one chunk, after or before its write depending on ``span``.

    ``erased`` is the output of ``erase`` (None without an eraser). The writes w k^T may be of other
    tokens than the reads if ``span.writes`` [*, C, S] has their coefficients. ``product`` is the
    function of passes.py that multiplies rows with the state; the state is passed on.
    """
    scores = q @ k.mT
    y, weight = product(state.weight, span.start[..., None] * q)
    momentum = state.momentum
    if span.momentum is not None:
        pushed, momentum = product(momentum, span.momentum[..., None] * q)
        y = y + pushed
    if span.initial is not None and initial is not None:
        y = y + span.initial[..., None] * (q @ initial.mT)
    y = y + (span.writes * scores) @ w
    if erased is not None:
        y = y - (span.erased * scores) @ erased
    return y, DeltaState(weight, momentum)


def close(
    k: Float[Tensor, "*N C K"],
    w: Float[Tensor, "*M C V"],
    erased: Float[Tensor, "*M C V"] | None,
    gates: Coefficients,
    state: DeltaState,
    initial: Tensor | None = None,
) -> DeltaState:
    """The state after the last token of one chunk; ``erased`` as in ``read``."""
    after, writes = gates.after, gates.momentum_writes
    delta = after.writes[..., -1, :, None] * w
    if erased is not None:
        delta = delta - after.erased[..., -1, :, None] * erased
    weight, momentum = advance(
        *state,
        after.start[..., -1],
        None if after.momentum is None else after.momentum[..., -1],
        gates.momentum_start,
        delta,
        None if writes is None else writes[..., None] * w,
        k,
    )
    if after.initial is not None and initial is not None:
        weight = weight + after.initial[..., -1, None, None] * initial
    return DeltaState(weight, momentum)


def chunk(
    q: Float[Tensor, "B T #H K"],
    k: Float[Tensor, "B T #H K"],
    w: Float[Tensor, "B T H V"],
    *,
    alpha: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"] | None,
    mu: Float[Tensor, "B T H"] | None,
    erase_key: Float[Tensor, "B T H K"] | None,
    state: DeltaState,
    initial: Float[Tensor, "*B H V K"] | None,
    read_at: str,
    reset: Bool[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"] | None,
    chunk_size: int,
) -> tuple[Float[Tensor, "B T H V"], DeltaState]:
    """Run the recurrence ``chunk_size`` tokens at a time; the size never changes the result.

    Gate products are computed and triangular systems solved for all chunks at once; the loop over
    chunks has matrix products only.

    Source: arXiv 2512.24695, Eq 90-93, made exact and with momentum (docs/equations.md).
    Deviates: nothing. Cost: time O(T (C^2 + C (K + V) + K V)), memory O(T C + T K V / C).
    """
    length = q.shape[1]
    full = -(-length // chunk_size) * chunk_size
    if full != length:
        filled = torch.arange(full, device=q.device) < length
        mask = filled.expand(len(q), full) if mask is None else _pad(mask, full) & filled

    def split(x: Tensor) -> Tensor:  # [B, T, H, *] -> [N, B, H, C, *]
        x = _pad(x, full).unflatten(1, (-1, chunk_size))
        return x.movedim(1, 0).movedim(3, 2)

    def split_flag(x: Tensor | None) -> Tensor | None:
        return None if x is None else split(x[:, :, None].expand(-1, -1, heads))

    heads = w.shape[2]
    q, k, w, alpha = split(q), split(k), split(w), split(alpha)
    mu = None if mu is None else split(mu)
    valid = split_flag(mask)
    gates = coefficients(alpha, mu, split_flag(reset), valid)
    if valid is not None:
        w = torch.where(valid[..., None], w, w.new_zeros(()))
    if beta is None:
        y, state = _adding(q, k, w, gates, read_at == "post", state, initial)
    else:
        beta = split(beta)
        if valid is not None:
            beta = torch.where(valid, beta, beta.new_zeros(()))
        q, k = (x.expand(-1, -1, heads, -1, -1) for x in (q, k))
        p = k if erase_key is None else split(erase_key)
        y, state = _erasing(q, k, w, p, beta, gates, read_at == "post", state, initial)
    return y.movedim(0, 1).transpose(2, 3).flatten(1, 2)[:, :length], state


def _erasing(
    q: Float[Tensor, "N B H C K"],
    k: Float[Tensor, "N B H C K"],
    w: Float[Tensor, "N B H C V"],
    p: Float[Tensor, "N B H C K"],
    beta: Float[Tensor, "N B H C"],
    gates: Coefficients,
    post: bool,
    state: DeltaState,
    initial: Tensor | None,
) -> tuple[Float[Tensor, "N B H C V"], DeltaState]:
    """With an eraser: solve all systems at once, then go chunk by chunk."""
    inverse = erased_inverse(gates.before, p @ k.mT, beta)
    outputs = []
    for n in range(len(q)):
        here = gates.map(lambda x, n=n: x[n])
        span = here.after if post else here.before
        gone, state = erase(p[n], k[n], w[n], beta[n], here.before, inverse[n], state, initial)
        y, state = read(q[n], k[n], w[n], gone, span, state, initial)
        outputs.append(y)
        state = close(k[n], w[n], gone, here, state, initial)
    return torch.stack(outputs), state


def _adding(
    q: Float[Tensor, "N B #H C K"],
    k: Float[Tensor, "N B #H C K"],
    w: Float[Tensor, "N B H C V"],
    gates: Coefficients,
    post: bool,
    state: DeltaState,
    initial: Tensor | None,
) -> tuple[Float[Tensor, "N B H C V"], DeltaState]:
    """Without an eraser: only the opening states of the chunks are computed one by one.

    Source: the chunk form of SSD (arXiv 2405.21060, section 6), with momentum and resets.
    """
    after, kept = gates.after, gates.momentum_start
    span = after if post else gates.before
    opened, momentum = None, state.momentum
    if gates.momentum_writes is not None:
        assert kept is not None
        pushed = _outer(gates.momentum_writes[..., None] * w, k)
        opened, momentum = carry(momentum, kept, pushed)
    elif kept is not None:
        momentum = momentum * kept.prod(0)[..., None, None]
    written = _outer(after.writes[..., -1, :, None] * w, k)
    y = (span.writes * (q @ k.mT)) @ w
    if opened is not None and after.momentum is not None and span.momentum is not None:
        written = written + after.momentum[..., -1, None, None] * opened
        y = y + span.momentum[..., None] * (q @ opened.mT)
    if initial is not None and after.initial is not None and span.initial is not None:
        written = written + after.initial[..., -1, None, None] * initial
        y = y + span.initial[..., None] * (q @ initial.mT)
    weights, weight = carry(state.weight, after.start[..., -1], written)
    return y + span.start[..., None] * (q @ weights.mT), DeltaState(weight, momentum)


def _outer(
    w: Float[Tensor, "N B H C V"], k: Float[Tensor, "N B #H C K"]
) -> Float[Tensor, "N B H V K"]:
    return torch.einsum("nbhcv,nbhck->nbhvk", w, k)


def _pad(x: Tensor, length: int) -> Tensor:
    """Pad dimension 1 with zeros to ``length``."""
    missing = length - x.shape[1]
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
