"""Measures whether rounding errors grow along a text, by reading it in pieces of other sizes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models.cache import MemoryCache, named_tensors
from nestling.models.hf import HopeForCausalLM

WINDOW = 256  # positions over which an error is averaged
SMALL = 1e-7  # norm of a perturbation of the states, relative to that of the states


@torch.no_grad()
def split_errors(
    model: HopeForCausalLM,
    ids: Int[Tensor, "1 T"],
    lengths: Sequence[int],
    *,
    piece: int = 100,
    segment: int = 4096,
) -> dict[int, float]:
    """The relative error of logits at each length, between calls of ``piece`` and ``segment``.

    This is the RMS of the difference relative to the RMS deviation of the logits from their mean,
    over the last 256 positions before each length.
    """
    if not lengths or max(lengths) > ids.shape[1] or min(lengths) < 1 or min(piece, segment) < 1:
        raise UserError(
            "lengths and pieces must be at least 1 token and at most the length of the text"
        )
    longest = max(lengths)
    spans = {length: (max(0, length - WINDOW), length) for length in lengths}
    kept = [_kept(model, ids[:, :longest], size, spans) for size in (segment, piece)]
    return {length: _relative(kept[1][length], kept[0][length]) for length in lengths}


def _kept(
    model: HopeForCausalLM, ids: Int[Tensor, "1 T"], size: int, spans: dict[int, tuple[int, int]]
) -> dict[int, Float[Tensor, "W V"]]:
    """The logits of some spans, reading in calls of ``size`` tokens."""
    cache, parts, start = model.new_cache(), {length: [] for length in spans}, 0
    for part in ids.split(size, 1):
        logits = model(part, past_key_values=cache, use_cache=True).logits[0]
        stop = start + len(logits)
        for length, (a, b) in spans.items():
            if a < stop and start < b:
                parts[length].append(logits[max(a - start, 0) : b - start].clone())
        start = stop
    return {length: torch.cat(found) for length, found in parts.items()}


def _relative(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double()
    spread = (wanted - wanted.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((found.double() - wanted).square().mean().sqrt() / spread.clamp_min(1e-300))


@torch.no_grad()
def exponent(
    model: HopeForCausalLM,
    ids: Int[Tensor, "1 T"],
    *,
    period: int = 32,
    seed: int = 0,
) -> float:
    """The rate at which two nearby states diverge, in nats per ``period`` tokens.

    This is Benettin's estimate of the largest Lyapunov exponent along the text: a second reading
    carries a small perturbation of the states, which is rescaled to its initial norm after every
    period; the result is the mean log growth, without the first third. If it is negative, rounding
    errors die out, otherwise they grow exponentially. The model should be in float64.
    """
    pieces = list(ids.split(period, 1))
    if len(pieces) < 6:
        raise UserError(f"the text is too short for an exponent; give at least {6 * period} tokens")
    cache = model(pieces[0], use_cache=True).past_key_values
    generator = torch.Generator().manual_seed(seed)
    drawn = cache.map(
        lambda x: _floats(x, lambda y: torch.randn(y.shape, generator=generator).to(y))
    )
    size = SMALL * max(_length(cache.states), 1e-6)
    other = _moved(cache, drawn, size / _length(drawn.states))
    growths = []
    for part in pieces[1:]:
        for each in (cache, other):
            model(part, past_key_values=each, use_cache=True)
        apart = _moved(other, cache, -1.0)
        length = _length(apart.states)
        if length == 0:
            return -float("inf")
        growths.append(torch.tensor(length / size, dtype=torch.float64).log())
        other = _moved(cache, apart, size / length)
    return float(torch.stack(growths[len(growths) // 3 :]).mean())


def _floats(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return function(x) if x.is_floating_point() else x


def _moved(cache: MemoryCache, by: MemoryCache, factor: float) -> MemoryCache:
    """A cache plus ``factor`` times another one; token counts are unchanged."""
    others: Iterator[Any] = iter([tensor for _, tensor in named_tensors(by.states)])
    moved = cache.fork()
    moved.states = map_state(
        lambda x: _floats(x, lambda y, o=next(others): y + factor * o), moved.states
    )
    return moved


def _length(states: Any) -> float:
    squares = [x.double().square().sum() for _, x in named_tensors(states) if x.is_floating_point()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
