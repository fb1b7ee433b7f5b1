"""Capture the inputs of a network's layers, on which delta gradient descent regresses.

Letters: a layer maps a row x [q] to W x; gram = sum of x x^T over the rows of a batch [q, q];
counts = how often each row of a table was looked up [V].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from nestling.optim.states import same_size

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, nn.Embedding, *CONVOLUTIONS)


class Context:
    """The inputs of one weight since the last step: Gram matrix [groups, q, q], counts [V]."""

    def __init__(self):
        self.gram: Tensor | None = None
        self.rows = 0  # rows summed in the Gram matrix
        self.counts: Tensor | None = None
        self.looks = 0  # look-ups summed in the counts

    def state_dict(self) -> dict[str, Any]:
        """The Gram matrix, the counts and their sizes, as plain values and tensors."""
        return dict(vars(self))

    @classmethod
    def of(cls, saved: dict[str, Any], device: torch.device) -> "Context":
        """The inverse of ``state_dict``, on a device."""
        context = cls()
        for name, value in saved.items():
            moved = value.to(device, copy=True) if isinstance(value, Tensor) else value
            setattr(context, name, moved)
        return context

    def check(self, name: str, weight: Tensor) -> None:
        """Raise UserError unless these are the inputs of a weight of this size."""
        rows, width = len(weight), weight.numel() // max(1, len(weight))
        if (gram := self.gram) is not None:
            groups = len(gram) if gram.ndim and len(gram) and not rows % len(gram) else 1
            same_size(f"the inputs of {name}", gram, (groups, width, width), weight.shape)
        if self.counts is not None:
            same_size(f"the look-ups of {name}", self.counts, (rows,), weight.shape)

    def add_rows(self, x: Tensor) -> None:
        """Add rows [groups, n, q]."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        gram = x.mT @ x
        self.gram = gram if self.gram is None else self.gram + gram
        self.rows += x.shape[1]

    def add_looks(self, indices: Tensor, layer: nn.Embedding) -> None:
        """Add look-ups in a table."""
        flat = indices.flatten()
        counts = torch.bincount(flat, minlength=layer.num_embeddings).to(layer.weight.dtype)
        if layer.padding_idx is not None:
            counts[layer.padding_idx] = 0
        self.counts = counts if self.counts is None else self.counts + counts
        self.looks += flat.numel()


class Capture:
    """Hooks on the layers of a module that record the inputs of calls that receive a gradient.

    A copied or unpickled one records nothing: its hooks are on the layers of the original module.
    """

    def __init__(self, module: nn.Module | None = None):
        self.contexts: dict[Tensor, Context] = {}
        self._hooks: list[RemovableHandle] = []
        layers = [] if module is None else module.modules()
        for layer in layers:
            if isinstance(layer, LAYERS):
                self._hooks.append(layer.register_forward_hook(self._on_forward))

    def __reduce__(self) -> tuple[Any, ...]:
        return Capture, ()

    def _on_forward(self, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook: wait for the gradient of the output."""
        if not (
            self._hooks
            and torch.is_grad_enabled()
            and layer.weight.requires_grad
            and output.requires_grad
        ):
            return
        x = inputs[0].detach()

        def keep(gradient: Tensor) -> None:
            context = self.contexts.setdefault(layer.weight, Context())
            if isinstance(layer, nn.Embedding):
                context.add_looks(x, layer)
            else:
                context.add_rows(rows_of(layer, x))

        output.register_hook(keep)

    def forget(self, weight: Tensor) -> None:
        """Forget the inputs of a weight."""
        self.contexts.pop(weight, None)

    def close(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """The rows that a layer's weight multiplies, [groups, n, q]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, CONVOLUTIONS)
    return patches(layer, x)


def patches(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The patch at each position of a convolution, [groups, n, channels / groups x kernel]."""
    space = len(layer.kernel_size)
    x = x if x.ndim == space + 2 else x[None]
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    else:
        x = functional.pad(x, [p for p in reversed(layer.padding) for _ in range(2)])
    for axis in range(space):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, layer.stride[axis])[..., :: layer.dilation[axis]]
    # [B, channels, *places, *kernel] -> [groups, B places, channels / groups, kernel]
    x = x.unflatten(1, (layer.groups, -1))
    x = x.movedim((1, 2), (0, 2 + space))
    return x.reshape(layer.groups, -1, x[0].flatten(1 + space).shape[-1]) if x.numel() else x
