"""What a training step of a large model takes, from steps of small ones of the same width.

Operations and memory are sums over layers, tokens and the vocabulary: so one and two repeats of the
pattern, two small vocabularies and two lengths, of one row, say what any number of them takes.
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

LONGEST = 256  # tokens of a row that is read
VOCABULARIES = (512, 1024)


@dataclass(frozen=True)
class Cost:
    """Of one row, read from a fresh memory and differentiated."""

    flops: float | int  # of matrix products, as ``nestling.train.flops`` counts them
    held: float | int  # bytes at the most, beside weights and their gradients
    begun: float | int  # bytes of gradients that are there by then, whatever the rows
    state: float | int  # of ``held``, bytes of what is remembered

    def plus(self, other: "Cost", times: float | int) -> "Cost":
        """The sum with ``times`` the other cost."""
        mine, theirs = vars(self), vars(other)
        return Cost(**{name: value + times * theirs[name] for name, value in mine.items()})


def cost(config: HopeConfig, length: int, *, recompute: bool = False) -> Cost:
    """The cost of a row of ``length`` tokens; up to 256 are read, the rest follows from them.

    Operations and activations go on as the parabola through three lengths, each of whole periods:
    a token costs the same wherever it stands, or what attention makes of all before it. What is
    remembered goes on as the last two lengths do. Gradients there at the peak are those of the
    longest that is read: with more tokens it comes no later. With ``recompute`` a block's
    activations are computed again in the backward pass, and those operations count. Cost: nine
    steps of at most two repeats of the pattern, in seconds to minutes on a CPU.
    """
    if length <= LONGEST:
        return _at(config, length, recompute)
    quarter, half, whole = (_at(config, LONGEST // n, recompute) for n in (4, 2, 1))
    x = 4 * length / LONGEST  # in quarters: the three lie at 1, 2 and 4
    shares = ((x - 2) * (x - 4) / 3, -(x - 1) * (x - 4) / 2, (x - 1) * (x - 2) / 6)
    found = Cost(0, 0, 0, 0)
    for share, read in zip(shares, (quarter, half, whole), strict=True):
        found = found.plus(read, share)
    state = whole.state + max(0, whole.state - half.state) * (x - 4) / 2
    return replace(found, state=state, begun=whole.begun)


def _at(config: HopeConfig, length: int, recompute: bool) -> Cost:
    """The cost at a length that is read: what one layer and one token of the vocabulary add."""
    small, large = VOCABULARIES
    first = _measure(config, 1, small, length, recompute)
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
    """The bytes of the tensors made inside that are there ``now``, and were at the ``most``.

    Gradients of parameters are left out; ``begun`` is how many bytes of them were there by then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.begun = self._gradients = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run it, and count what it makes."""
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
        """Count the gradient of a parameter no more; for a hook after its accumulation."""
        if parameter.grad is not None:
            storage = parameter.grad.untyped_storage()
            self._free(storage._cdata, storage.nbytes())
            self._gradients += storage.nbytes()
