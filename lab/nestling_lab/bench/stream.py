"""Reads a long stream of real text with a trained model: does anything grow or break?"""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.data import Documents
from nestling.memories.self_titans import SelfTitans
from nestling.models.cache import named_tensors
from nestling.models.hf import HopeForCausalLM


def resident_mib() -> float:
    """The resident memory of this process, MiB, or its peak where only that is available."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def pieces(documents: list[Documents], length: int, total: int) -> Iterator[Tensor]:
    """Yield token ids [1, length] of the documents end to end, repeated, ``total`` tokens in all.

    The last piece is cut accordingly.
    """
    ids = torch.cat([part.ids for part in documents]).long()
    if not len(ids):
        raise UserError("the corpus has no tokens; choose another one with --corpus")
    for start in range(0, total, length):
        span = torch.arange(start, min(start + length, total)) % len(ids)
        yield ids[span][None]


def norms(states: Any) -> dict[str, float]:
    """The largest Euclidean row norm of each floating-point tensor in the states, by name."""
    return {
        name: float(torch.linalg.vector_norm(tensor.flatten(1).float(), dim=1).max())
        for name, tensor in named_tensors(states)
        if tensor.is_floating_point() and tensor.numel()
    }


@torch.no_grad()
def stream(
    model: HopeForCausalLM,
    documents: list[Documents],
    *,
    tokens: int,
    chunk: int = 512,
    warm_up: int = 8,
    quiet: bool = False,
) -> dict[str, Any]:
    """Read ``tokens`` tokens in calls of ``chunk``, carrying the memory along without a reset.

    Returns ``non_finite`` (the number of non-finite values in logits and states),
    ``max_state_norm`` (the largest norm of a state tensor at the end of any call; also for the
    first and the last tenth), ``rss_growth_mib`` (resident memory at the end minus that after
    ``warm_up`` calls), ``tokens_per_second`` and ``loss`` (nats per token). No logits are kept, so
    memory is bounded if the states are.
    """
    if tokens < 2 or chunk < 1:
        raise UserError(
            f"tokens is {tokens}, chunk {chunk}; give at least 2 tokens, in chunks of at least 1"
        )
    device = model.device
    cache = model.new_cache()
    wrong = torch.zeros((), dtype=torch.long, device=device)
    losses = torch.zeros((), dtype=torch.float64, device=device)
    last: Tensor | None = None  # logits at the position before the chunk
    calls = -(-tokens // chunk)
    history: list[dict[str, float]] = []
    before, begin = resident_mib(), time.monotonic()
    for call, piece in enumerate(pieces(documents, chunk, tokens)):
        piece = piece.to(device)
        logits = model(piece, past_key_values=cache, use_cache=True).logits
        known = logits[:, :-1] if last is None else torch.cat((last, logits[:, :-1]), dim=1)
        seen = piece[:, 1:] if last is None else piece
        losses += torch.nn.functional.cross_entropy(
            known.float().flatten(0, 1), seen.flatten(), reduction="sum"
        )
        last = logits[:, -1:].clone()
        wrong += (~logits.isfinite()).sum() + broken(cache.states)
        history.append(norms(cache.states))
        if call + 1 == min(warm_up, calls):
            before = resident_mib()
        if not quiet and (call + 1) % max(1, calls // 10) == 0:
            print(f"{min((call + 1) * chunk, tokens):,} of {tokens:,} tokens", file=sys.stderr)
    seconds = time.monotonic() - begin
    return {
        "tokens": tokens,
        "non_finite": int(wrong),
        "rss_growth_mib": resident_mib() - before,
        "rss_mib": resident_mib(),
        "tokens_per_second": tokens / seconds,
        "loss": float(losses) / (tokens - 1),
        "least_reach": least_reach(model, cache.states),
        **summary(history),
    }


def least_reach(model: HopeForCausalLM, states: list[Any] | None) -> float | None:
    """The smallest |M(x) - x| of any memory, relative to its start; None without such memories."""
    shares = []
    # the states of the blocks may be followed by that of the head
    for block, state in zip(model.backbone.each(), states or [], strict=False):
        if isinstance(block.memory, SelfTitans):
            before, now = block.memory.reach(), block.memory.reach(state)
            shares += [now[name] / before[name] for name in now]
    return min(shares, default=None)


def broken(states: Any) -> int:
    """The number of non-finite values in the states."""
    count = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal count
        count += int((~tensor.isfinite()).sum())
        return tensor

    map_state(add, states)
    return count


def summary(history: list[dict[str, float]]) -> dict[str, Any]:
    """The largest norm: overall, by tensor, and in the first and last tenth of the calls.

    >>> found = summary([{"0.weight": 1.0}, {"0.weight": 3.0}, {"0.weight": 2.0}])
    >>> found["max_state_norm"], found["first_state_norm"], found["last_state_norm"]
    (3.0, 1.0, 2.0)
    """
    tenth = max(1, len(history) // 10)

    def largest(part: list[dict[str, float]]) -> float:
        # a state may be empty (a memory that is not written in context)
        return max((value for norms in part for value in norms.values()), default=0.0)

    names = sorted({name for norms in history for name in norms})
    return {
        "max_state_norm": largest(history),
        "first_state_norm": largest(history[:tenth]),
        "last_state_norm": largest(history[-tenth:]),
        "state_norms": {
            name: max(norms[name] for norms in history if name in norms) for name in names
        },
    }
