"""Elastic weight consolidation: hold the weights that mattered for earlier tasks."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Elastic:
    """Adds the gradient of ``strength / 2 sum F (theta - theta*)^2``.

    F is the mean of squared gradients over the updates of all finished tasks, scaled to a mean of
    one; theta* are the weights at the end of the last one. ``before`` yields gradients of the loss
    on text that the model knew before the first task, one list for each piece of text: without
    them the first task is unconstrained.

    Source: Kirkpatrick et al., arXiv 1612.00796, in the online form with one anchor (arXiv
    1805.06370). Deviates: gradients of a segment's mean loss stand for those of single tokens.
    """

    def __init__(self, strength: float, before: Iterable[Sequence[Tensor]] = ()):
        self.strength = strength
        self.before = before
        self._sums: list[Tensor] | None = None  # squared gradients of finished tasks
        self._task: list[Tensor] | None = None  # squared gradients of the current task
        self._anchor: list[Tensor] | None = None

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """Record gradients on text the model knew before."""
        for gradients in self.before:
            self._add([g.square() for g in gradients])
        if self._task is not None:
            self.end_task(parameters)

    def _add(self, squares: list[Tensor]) -> None:
        old = self._task
        self._task = squares if old is None else [a + b for a, b in zip(old, squares, strict=True)]

    @torch.no_grad()
    def note(self, parameters: Sequence[Tensor]) -> None:
        """Record the gradients of a segment of the current task."""
        self._add([torch.zeros_like(p) if p.grad is None else p.grad.square() for p in parameters])

    @torch.no_grad()
    def end_task(self, parameters: Sequence[Tensor]) -> None:
        """End the current task: weights that mattered in it are held from now on."""
        if self._task is None:
            return
        total = sum(float(x.sum()) for x in self._task) / sum(x.numel() for x in self._task)
        scaled = [x / max(total, 1e-30) for x in self._task]
        old = self._sums
        self._sums = scaled if old is None else [a + b for a, b in zip(old, scaled, strict=True)]
        self._anchor = [p.detach().clone() for p in parameters]
        self._task = None

    @torch.no_grad()
    def pull(self, parameters: Sequence[Tensor]) -> None:
        """Add the gradient of the penalty."""
        if self._sums is None or self._anchor is None:
            return
        for p, weight, anchor in zip(parameters, self._sums, self._anchor, strict=True):
            gradient = self.strength * weight * (p - anchor)
            p.grad = gradient if p.grad is None else p.grad + gradient
