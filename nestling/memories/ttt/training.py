"""The inner training of a test-time training layer: mini-batch by mini-batch, compiled or in torch.

Letters: B rows, T tokens, H heads of width K, b tokens of a mini-batch, M mini-batches of a row and
R tokens of one in the grid.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.memory import Flow
from nestling.memories.grid import Grid, grid
from nestling.memories.ttt.inner import (
    EPSILON,
    Inner,
    added,
    apply,
    choose_rows,
    gelu,
    gradients_of,
    normalised,
    packed,
    subtracted,
    unpacked,
    zeros,
)
from nestling.ops.self_titans.cuts import cut
from nestling.ops.ttt import GROUP, TOKENS, Setting, available, scan


class Standing(NamedTuple):
    """The state of the inner training of every row."""

    anchor: Inner  # the inner model at the start of the mini-batch
    total: Inner  # its gradients at the mini-batch's tokens so far, times their rates
    count: Int[Tensor, " B"]  # tokens of the row's document so far


class Teacher(NamedTuple):
    """The parameters that all rows share."""

    initial: Inner  # the inner model before a document
    sizes: tuple[int, ...]  # widths of its layers, first input to last output
    scale: Float[Tensor, "H K"]  # scale of its norm
    shift: Float[Tensor, "H K"]
    factors: Float[Tensor, " b"]  # factors of the summed gradients, by place in the mini-batch
    theta: float  # base of the rotation's wavelengths, in tokens

    def train(
        self,
        qk: Float[Tensor, "B T 2 H K"],
        v: Float[Tensor, "B T H K"],
        eta: Float[Tensor, "B T H"],
        standing: Standing,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H K"], Standing]:
        """Train on the keys and values and read with the queries."""
        run = self._compiled if available(v) else self._side_by_side
        return run(qk, v, eta, standing, flow)

    def _compiled(
        self,
        qk: Float[Tensor, "B T 2 H K"],
        v: Float[Tensor, "B T H K"],
        eta: Float[Tensor, "B T H"],
        standing: Standing,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H K"], Standing]:
        """Train each row and head separately, in the kernel of nestling/ops/ttt."""
        sizes, period = self.sizes, len(self.factors)
        cuts = cut(
            standing.count,
            flow.reset,
            flow.mask,
            length=v.shape[1],
            period=period,
            tokens=TOKENS,
            group=GROUP,
        )
        cos, sin = turns(torch.arange(period), v.shape[-1], self.theta, v.dtype)
        y, anchor, total = scan(
            qk,
            v,
            eta,
            self.factors,
            (self.scale, self.shift),
            packed(self.initial),
            (packed(standing.anchor).to(v.dtype), packed(standing.total).to(v.dtype)),
            setting=Setting(cuts, cos, sin, sizes[1] if len(sizes) > 2 else 0, EPSILON),
        )
        return y, Standing(unpacked(anchor, sizes), unpacked(total, sizes), cuts.tokens)

    def _side_by_side(
        self,
        qk: Float[Tensor, "B T 2 H K"],
        v: Float[Tensor, "B T H K"],
        eta: Float[Tensor, "B T H"],
        standing: Standing,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H K"], Standing]:
        """Train the mini-batches of all rows side by side, in torch."""
        places = grid(standing.count, flow, v.shape[1], len(self.factors))
        q, k = rotate(qk, places.position[..., None], self.theta).unbind(2)
        # f(k) - v is LN(net(k)) - (v - k)
        rows = [places.spread(part).movedim(-2, 1) for part in (q, k, v - k, eta[..., None])]
        rows.append(places.spread(self.factors[places.position])[:, None, ..., None])
        y, anchor, total = self._scan(rows, standing, places)
        return places.collect(y.movedim(1, -2)), Standing(anchor, total, places.count)

    def _scan(
        self, rows: list[Float[Tensor, "B _ M R _"]], standing: Standing, places: Grid
    ) -> tuple[Float[Tensor, "B H M R K"], Inner, Inner]:
        """The mini-batches in sequence; ``total`` is None where it is known to be zero."""
        anchor, last = standing.anchor, self.factors[-1]
        open_rows = (standing.count % len(self.factors) > 0).any()
        total = standing.total if bool(open_rows) else None
        opens = places.opens.any(0).tolist()
        some, every = places.closes.any(0).tolist(), places.closes.all(0).tolist()
        outputs = []
        for index, parts in enumerate(zip(*(part.unbind(2) for part in rows), strict=True)):
            if opens[index]:
                starts = places.opens[:, index]
                anchor = choose_rows(starts, self.initial, anchor)
                if total is not None:
                    total = choose_rows(starts, zeros(total), total)
            y, inputs, gradients = self._mini_batch(anchor, total, *parts)
            outputs.append(y)
            if every[index] and total is None:
                anchor = added(anchor, inputs, [-last * gradient for gradient in gradients])
                continue
            total = added(total, inputs, gradients)
            if some[index]:
                ends = places.closes[:, index]
                anchor = choose_rows(ends, subtracted(anchor, total, last), anchor)
                total = None if every[index] else choose_rows(ends, zeros(total), total)
        if total is None:
            total = zeros(anchor)
        return torch.stack(outputs, dim=2), anchor, total

    def _mini_batch(
        self,
        anchor: Inner,
        total: Inner | None,
        q: Float[Tensor, "B H R K"],
        k: Float[Tensor, "B H R K"],
        target: Float[Tensor, "B H R K"],
        eta: Float[Tensor, "B H R 1"],
        c: Float[Tensor, "B 1 R 1"],
    ) -> tuple[
        Float[Tensor, "B H R K"],
        list[Float[Tensor, "B H R _"]],
        list[Float[Tensor, "B H R _"]],
    ]:
        """The reads, and for each layer its inputs at the keys and the gradients of its outputs.

        Gradients are multiplied by their learning rates, which are zero where there is no token.
        """
        scale, shift = self.scale[:, None], self.shift[:, None]
        inputs, gradients = gradients_of(anchor, k, target, scale, shift)
        gradients = [eta * gradient for gradient in gradients]
        z = q
        for index, (layer, u, g) in enumerate(zip(anchor, inputs, gradients, strict=True)):
            x = gelu(z) if index else z
            moved = torch.tril(x @ u.mT + 1) @ g
            if total is not None:
                moved = moved + apply(total[index], x)
            z = apply(layer, x) - c * moved
        normal, _ = normalised(z)
        return q + scale * normal + shift, inputs, gradients


def turns(
    positions: Int[Tensor, "*N"], width: int, theta: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "*N K2"], Float[Tensor, "*N K2"]]:
    """Cosines and sines of the rotary position embedding (arXiv 2104.09864, Eq 34)."""
    exponent = torch.arange(0, width, 2, device=positions.device).to(dtype) / width
    angle = positions[..., None].to(dtype) * theta**-exponent
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "*B H K"], positions: Int[Tensor, "*#B"], theta: float
) -> Float[Tensor, "*B H K"]:
    """Rotary position embedding, neighbours paired."""
    cos, sin = (part[..., None, :] for part in turns(positions, x.shape[-1], theta, x.dtype))
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
