"""Count what the host reads from a device, without one: a model on "meta" computes nothing.

Its code takes the ways of an accelerator, and every value that Python wants of it passes here.
"""

import traceback

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Reads(TorchDispatchMode):
    """``places``: of each read the line of this package that asked for it, innermost first."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [x for x in given if x.is_meta]
        if func is torch.ops.aten._local_scalar_dense.default and there:
            self._note()
            return there[0].dtype.is_floating_point or 1
        if func is torch.ops.aten._to_copy.default and there:
            target = kwargs.get("device")
            if target is not None and torch.device(target).type == "cpu":
                self._note()
                return torch.ones(there[0].shape, dtype=kwargs.get("dtype") or there[0].dtype)
        return func(*args, **kwargs)

    def _note(self):
        frames = [f for f in traceback.extract_stack() if "/nestling/" in f.filename]
        names = [f"{f.filename.rpartition('/nestling/')[2]}:{f.lineno}" for f in frames]
        self.places.append(names[::-1])
