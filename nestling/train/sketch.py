"""Extrapolates the cost of a training step from small models of the same width.

Operations and memory are sums over layers, tokens and the vocabulary. So measurements with one and
two repeats of the pattern, two small vocabularies and a few lengths, of a single row, give the cost
for any number of them.
"""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nestling.core.memory import map_state
from nestling.data import Batch
from nestling.models.config import HopeConfig
from nestling.models.hf import HopeForCausalLM
from nestling.train.flops import training_flops
from nestling.train.step import read_batch, token_losses

STEP = 128  # tokens
LONGEST = 2 * STEP  # tokens of a row whose cost is measured; longer ones are extrapolated
VOCABULARIES = (512, 1024)


@dataclass(frozen=True)
class Cost:
    """The cost of a forward and backward pass over one row with an empty memory."""

    flops: float | int  # in matrix products, as counted by ``nestling.train.flops``
    held: float | int  # peak bytes, without weights and their gradients
    begun: float | int  # bytes of gradients at that peak, independent of the rows
    state: float | int  # bytes of states, part of ``held``

    def plus(self, other: "Cost", times: float | int) -> "Cost":
        """This cost plus ``times`` the other."""
        mine, theirs = vars(self), vars(other)
        return Cost(**{name: value + times * theirs[name] for name, value in mine.items()})

    def times(self, factor: float | int) -> "Cost":
        """The cost multiplied by a factor."""
        return Cost(0, 0, 0, 0).plus(self, factor)


def cost(config: HopeConfig, length: int, *, recompute: bool = False) -> Cost:
    """The cost of a row of ``length`` tokens; up to 256 are measured, more are extrapolated.

    Lengths are measured at multiples of 128, where all periods and chunks are complete. Beyond, a
    token costs the same at any position, plus attention to all earlier ones. So costs are
    parabolas, with the curvature of one repeat times their number. If operations, which are exact,
    have no curvature, activations are extrapolated linearly from the last two lengths, and states
    always are. Gradients at the peak are those of the longest measured length, as the peak comes no
    later with more tokens. With ``recompute`` activations of a block are recomputed in the backward
    pass, and those operations count. Takes seven steps of at most two repeats of the pattern:
    seconds to minutes on a CPU.
    """
    if length <= LONGEST:
        return _at(config, length, recompute)
    small = VOCABULARIES[0]
    one, two, three = (_measure(config, 1, small, n * STEP, recompute) for n in (1, 2, 3))
    half, whole = (_at(config, n * STEP, recompute, o) for n, o in ((1, one), (2, two)))
    slope = whole.plus(half, -1)
    bend = three.plus(two, -2).plus(one, 1).times(config.num_hidden_layers)
    beyond = (length - 2 * STEP) / STEP
    curved = (beyond + 1) * beyond / 2
    found = whole.plus(slope, beyond)
    held = found.held + bend.held * (curved if bend.flops else beyond)
    state = whole.state + max(0, slope.state) * beyond
    flops = found.flops + bend.flops * curved
    return Cost(flops=flops, held=held, begun=whole.begun, state=state)


def _at(config: HopeConfig, length: int, recompute: bool, first: Cost | None = None) -> Cost:
    """The cost at a measured length, extrapolated over layers and the vocabulary.

    ``first`` is the cost of one repeat with the small vocabulary, if it is known.
    """
    small, large = VOCABULARIES
    first = first or _measure(config, 1, small, length, recompute)
    layer = _measure(config, 2, small, length, recompute).plus(first, -1)
    words = _measure(config, 1, large, length, recompute).plus(first, -1)
    more = (config.vocab_size - small) / (large - small)
    found = first.plus(layer, config.num_hidden_layers - 1).plus(words, more)
    return replace(found, begun=max(0, found.begun))  # one repeat may peak earlier than two


def _measure(
    config: HopeConfig, layers: int, vocabulary: int, length: int, recompute: bool = False
) -> Cost:
    values: dict[str, Any] = config.to_dict()
    values |= {"num_hidden_layers": layers, "vocab_size": vocabulary}
    values |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    with torch.random.fork_rng(devices=[]):
        model = HopeForCausalLM(HopeConfig(**values)).train()
    if recompute:
        model.gradient_checkpointing_enable()
    ids = torch.zeros(1, length, dtype=torch.long)
    mask = torch.ones_like(ids, dtype=torch.bool)
    reset = torch.zeros_like(mask)
    reset[:, 0] = True
    batch = Batch(ids, ids, reset, mask)
    with Held() as held:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(held.leave_out_gradient)
        logits, cache = read_batch(model, batch)
        loss = token_losses(logits, ids).sum()
        del logits
        loss.backward()
    state = 0

    def add(x: Tensor) -> Tensor:
        nonlocal state
        state += x.nbytes
        return x

    map_state(add, cache.states)
    flops = training_flops(model, batch)
    return Cost(flops=flops, held=held.most, begun=held.begun, state=state)


class Held(TorchDispatchMode):
    """Tracks the bytes of tensors created inside: ``now``, and the peak, ``most``.

    Gradients of parameters are not included; ``begun`` is their bytes at the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.begun = self._gradients = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count the tensors it creates."""
        found = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves(args) if isinstance(x, Tensor)}
        for x in tree_leaves(found):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                self._count(x.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        if self.now > self.most:
            self.most, self.begun = self.now, self._gradients
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        if key in self._known:
            self._known.remove(key)
            self.now -= size

    def leave_out_gradient(self, parameter: Tensor) -> None:
        """Stop counting the gradient of a parameter; for a hook after its accumulation."""
        if parameter.grad is not None:
            storage = parameter.grad.untyped_storage()
            self._free(storage._cdata, storage.nbytes())
            self._gradients += storage.nbytes()
