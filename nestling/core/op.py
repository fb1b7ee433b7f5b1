"""An op: a recurrence, defined by its step, with its faster implementations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Op:
    """A recurrence ``step(state, **token) -> (y, state)`` and faster forms that must equal it.

    ``step`` takes the tensors of one token, [B, ...], and is the reference. ``chunk`` takes the
    whole sequence, [B, T, ...]. ``triton``, if there is one, is the same in kernels, and imports
    the package triton only when called. ``inputs(seed, ...)`` draws inputs for tests and
    benchmarks; ``init(**token)`` returns the state before the first token.
    """

    name: str
    init: Callable[..., Any]
    step: Callable[..., tuple[Tensor, Any]]
    chunk: Callable[..., tuple[Tensor, Any]]
    inputs: Callable[..., dict[str, Tensor]]
    triton: Callable[..., tuple[Tensor, Any]] | None = None

    def sequential(
        self, tokens: Mapping[str, Tensor], *, state: Any = None, **constants: Any
    ) -> tuple[Tensor, Any]:
        """Fold ``step`` over time: the reference for all other forms."""
        first = next(iter(tokens.values()))
        if state is None:
            state = self.init(**tokens, **constants)
        outputs = []
        for t in range(first.shape[1]):
            y, state = self.step(state, **{n: x[:, t] for n, x in tokens.items()}, **constants)
            outputs.append(y)
        if outputs:
            return torch.stack(outputs, dim=1), state
        return tokens["q"].new_zeros(*tokens["w"].shape), state
