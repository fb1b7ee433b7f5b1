"""A level of the continuum memory system: weights that are written once per period.

Used inside a sequence (regime R1), where everything here is differentiable, and at test time (R3).
All functions are pure. A level starts from weights that belong to someone else (``start``: learned
initial states, or a pretrained network); its state holds how far each row has moved from there:

    state = new_level(level, start, rows)
    weights = weights_of(start, state)                       # read with these until the write
    state = gather(state, gradients, seen=..., terms=...)    # any number of times
    state = write(level, start, state)                       # rows whose period is full
    state = rewind(state, share)                             # nested: a slower level was written

Source: arXiv 2512.24695, Eq 71. Deviates: the sum has C terms (the paper prints C + 1) and is
divided by their number, so that a learning rate has the same meaning for every period.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.error import UserError, did_you_mean
from nestling.core.named import traceable
from nestling.rules import RULES, Evidence, Rule, RuleOptions
from nestling.rules.rule import wide

# ntp: next-token loss through the layers above; teach: the head's gradient at the level's own
# output; local: the level's own prediction of what comes next
LEVEL_OBJECTIVES = ("ntp", "local", "teach")

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class CMSLevel:
    """The configuration of a level: its period and how it is written."""

    period: int  # tokens between two writes
    rule: str = "gradient"  # the error component f: a name of nestling.rules.RULES
    lr: float = 0.1  # learning rate eta
    objective: str = "ntp"  # what a write minimises: "ntp", "local" or "teach"
    reduction: str = "mean"  # of the gradients of a period: "mean" or "sum"
    clip: float | None = 1.0  # maximum gradient norm of a write, over all tensors; None: no bound
    trust: float | None = 1.0  # maximum distance from the start, relative to its norm; None: any
    options: RuleOptions = field(default_factory=RuleOptions)  # constants of the rule

    def __post_init__(self):
        if self.period < 1:
            raise UserError(f"the period of a level is {self.period}; give at least 1 token")
        if not self.lr >= 0:
            raise UserError(f"the learning rate of a level is {self.lr}; give at least 0")
        choices = (("rule", RULES), ("objective", LEVEL_OBJECTIVES), ("reduction", ("mean", "sum")))
        for name, known in choices:
            if (value := getattr(self, name)) not in known:
                raise UserError(
                    f"unknown {name} {value!r} of a level: {did_you_mean(value, known)}"
                )
        for name in ("clip", "trust"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UserError(
                    f"{name} of a level is {value}; give a number above 0, or None for no bound"
                )
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        """Raise UserError for a constant that the rule does not use."""
        kind, plain = RULES[self.rule], RuleOptions()
        for name, value in vars(self.options).items():
            if value == (default := getattr(plain, name)):
                continue
            read = kind.erases and name == "erase_whole"
            if not read and kind.of(replace(self.options, **{name: default})) == self.written_by:
                raise UserError(
                    f"{name}={value} has no effect with the rule {self.rule}; leave it out"
                )

    @property
    def written_by(self) -> Rule:
        """The rule with its constants."""
        return RULES[self.rule].of(self.options)


def check_periods(periods: Sequence[int], name: str) -> None:
    """Raise UserError unless the periods (tokens) increase and each divides the next."""
    if not periods or min(periods) < 1:
        raise UserError(f"{name} {list(periods)}: give at least one period of at least 1 token")
    for fast, slow in pairwise(periods):
        if slow <= fast or slow % fast:
            raise UserError(
                f"{name} {list(periods)}: {slow} is not a larger multiple of {fast}; give "
                "increasing periods, each dividing the next"
            )


@traceable
class LevelState(NamedTuple):
    """The state of a level, for every row; at least float32."""

    moved: Tensors  # weights minus start, each [B, *S]
    total: Tensors  # gradients summed over the open period
    gram: Tensors  # dgd: sums of x x^T over the inputs of each linear map, [B, 0, 0] for others
    buffers: tuple[Tensors, ...]  # the rule's memories of gradients, for each tensor
    terms: Float[Tensor, " B"]  # gradients in ``total``
    seen: Int[Tensor, " B"]  # tokens since the row's start
    writes: Int[Tensor, " B"]  # writes since the row's start, or since the level was rewound
    begin: Tensors = ()  # where ``rewind`` puts it, minus start; (): the start


def new_level(
    level: CMSLevel, start: Sequence[Tensor], rows: int, inputs: Sequence[int] = ()
) -> LevelState:
    """The state before the first token: nothing moved, no gradients gathered.

    ``start`` has one tensor [*S] per weight of the level. ``inputs`` is used by the rule dgd only:
    the input width of each tensor, or 0 if it is not a linear map.
    """
    plain = [torch.zeros(rows, *s.shape, dtype=_wide_type(s), device=s.device) for s in start]
    rule = level.written_by
    grams = inputs if rule.erases else [0] * len(plain)
    if len(grams) != len(plain):
        raise ValueError(
            "the rule dgd needs the input width of every tensor, 0 if it is not a linear map"
        )
    count = torch.zeros(rows, dtype=torch.long, device=start[0].device)
    return LevelState(
        tuple(plain),
        tuple(torch.zeros_like(x) for x in plain),
        tuple(x.new_zeros(rows, k, k) for x, k in zip(plain, grams, strict=True)),
        tuple(rule.start(x) for x in plain),
        plain[0].new_zeros(rows),
        count,
        torch.zeros_like(count),
    )


def _wide_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def weights_of(start: Sequence[Tensor], state: LevelState) -> Tensors:
    """The weights of each row: start ([*S], or [B, *S] if each row has its own) plus what moved."""
    return tuple(s.to(m.dtype) + m for s, m in zip(start, state.moved, strict=True))


def gather(
    state: LevelState,
    gradients: Sequence[Float[Tensor, "B *_"]],
    *,
    seen: Int[Tensor, " B"],
    terms: Float[Tensor, " B"] | None = None,
    gram: Sequence[Float[Tensor, "B _ _"]] = (),
) -> LevelState:
    """Add the gradients of more tokens, summed over ``terms`` of them (None: ``seen``).

    ``seen`` is the number of tokens that the rows have read since the last call. Gradients must be
    taken at the weights of the open period. ``gram`` are the sums of x x^T over the inputs of the
    same terms. Raises ValueError if the rule is dgd and ``gram`` is missing.
    """
    if not gram and any(x.shape[-1] for x in state.gram):
        raise ValueError("the rule dgd needs the Gram matrices of the inputs; pass gram")
    added = seen.to(state.terms.dtype) if terms is None else terms.to(state.terms.dtype)
    return state._replace(
        total=tuple(a + b.to(a.dtype) for a, b in zip(state.total, gradients, strict=True)),
        gram=tuple(a + b.to(a.dtype) for a, b in zip(state.gram, gram, strict=True))
        if gram
        else state.gram,
        terms=state.terms + added,
        seen=state.seen + seen,
    )


def due(level: CMSLevel, state: LevelState) -> Bool[Tensor, " B"]:
    """The rows whose period is complete but not yet written."""
    return (state.seen % level.period == 0) & (state.terms > 0)


def write(
    level: CMSLevel,
    start: Sequence[Tensor],
    state: LevelState,
    *,
    rows: Bool[Tensor, " B"] | None = None,
    lr: Float[Tensor, ""] | None = None,
) -> LevelState:
    """Write the rows that are ``due`` (or ``rows``), and open their next period.

    A write is one step of the rule with the clipped gradients of the period; the weights are then
    brought back within the trust bound. ``lr`` replaces the level's own rate (for a learned one). A
    row with a non-finite gradient does not move.
    """
    rows = due(level, state) if rows is None else rows
    eta = level.lr if lr is None else lr
    rule = level.written_by
    gradients, grams, sound = _evidence(level, state)
    number = state.writes + 1
    base = weights_of(start, state) if level.options.erase_whole else since(state)
    steps = [
        rule.step(eta, Evidence(g, w, gram), buffers, number)
        for g, w, gram, buffers in zip(gradients, base, grams, state.buffers, strict=True)
    ]
    after = tuple(m + change for m, (change, _) in zip(state.moved, steps, strict=True))
    after = bound(level, start, after)
    step = rows & sound
    # usually all rows are written, and there is nothing to choose
    every = None if bool(step.all()) else step
    each = None if every is None else rows
    return LevelState(
        choose(every, after, state.moved),
        choose(each, tuple(map(torch.zeros_like, state.total)), state.total),
        choose(each, tuple(map(torch.zeros_like, state.gram)), state.gram),
        tuple(choose(every, new, old) for (_, new), old in zip(steps, state.buffers, strict=True)),
        state.terms.masked_fill(rows, 0),
        state.seen,
        state.writes + step.long(),
        state.begin,
    )


def since(state: LevelState) -> Tensors:
    """How far the weights have moved since the level was last reset."""
    return tuple(map(torch.sub, state.moved, state.begin)) if state.begin else state.moved


def _evidence(level: CMSLevel, state: LevelState) -> tuple[Tensors, Tensors, Bool[Tensor, " B"]]:
    """The reduced and clipped gradients of the period, Gram matrices, and the finite rows."""
    terms = state.terms.clamp_min(1)
    scale = 1 / terms if level.reduction == "mean" else torch.ones_like(terms)
    norm = lengths(state.total) * scale
    sound = norm.isfinite() & lengths(state.gram).isfinite()
    if level.clip is not None and bool((norm > level.clip).any()):
        scale = scale * (level.clip / norm.clamp_min(level.clip))
    gradients = tuple(x * wide(scale, x) for x in state.total)
    if not bool(sound.all()):
        gradients = tuple(torch.where(wide(sound, x), x, 0.0) for x in gradients)
    grams = tuple(torch.where(wide(sound, x), x, 0.0) / wide(terms, x) for x in state.gram)
    return gradients, grams, sound


def lengths(tensors: Tensors) -> Float[Tensor, " B"]:
    """The Euclidean norm of each row, over all tensors together."""
    squares = [torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1).square() for x in tensors]
    return torch.stack(squares).sum(0).clamp_min(1e-30).sqrt()


def bound(level: CMSLevel, start: Sequence[Tensor], move: Tensors) -> Tensors:
    """Shorten the move to at most ``level.trust`` times the norm of the start, over all tensors."""
    if level.trust is None:
        return move
    whole = lengths(move)
    shared = start[0].ndim < move[0].ndim
    radius = level.trust * lengths(
        tuple(s.to(whole.dtype)[None] if shared else s.to(whole.dtype) for s in start)
    )
    if bool((whole <= radius).all()):
        return move
    return tuple(x * wide(radius / torch.maximum(whole, radius), x) for x in move)


def restart(state: LevelState, rows: Bool[Tensor, " B"], *, keep_seen: bool = False) -> LevelState:
    """Reset these rows: nothing moved, gathered or counted (except ``seen``, if kept)."""

    def zero(x: Tensor) -> Tensor:
        return x.masked_fill(wide(rows, x), 0)

    def each(tensors: Tensors) -> Tensors:
        return tuple(map(zero, tensors))

    return LevelState(
        each(state.moved),
        each(state.total),
        each(state.gram),
        tuple(map(each, state.buffers)),
        zero(state.terms),
        state.seen if keep_seen else zero(state.seen),
        zero(state.writes),
        each(state.begin),
    )


def rewind(state: LevelState, share: float) -> LevelState:
    """Reset the level to its starting point, in every row, for the next context of a slower level.

    The starting point first moves by a share of the way that the level went:

        begin <- begin + e (moved - begin);  moved <- begin;  gathered gradients, moments <- 0

    ``share`` e is from 0 (always back to the start) to 1 (the weights stay, only the rule's buffers
    are cleared). ``begin`` is within the trust bound, because it lies between points that are.

    Source: arXiv 2512.24695, Eq 72, with the step of arXiv 1803.02999 (Reptile) for the inner
    argmin. Deviates: e is given, not learned.
    """
    zeros = tuple(map(torch.zeros_like, state.moved))
    begin = tuple(
        torch.lerp(old, new, share)
        for old, new in zip(state.begin or zeros, state.moved, strict=True)
    )
    rows = torch.ones_like(state.writes, dtype=torch.bool)
    return restart(state, rows, keep_seen=True)._replace(moved=begin, begin=begin)


def check_share(share: float | None, name: str) -> None:
    """Raise UserError unless a share is None or from 0 to 1."""
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"{name} is {share}; give a fraction from 0 to 1")


def choose(rows: Bool[Tensor, " B"] | None, new: Tensors, old: Tensors) -> Tensors:
    """``new`` in these rows (None: all), ``old`` in the others."""
    if rows is None:
        return new
    return tuple(torch.where(wide(rows, a), a, b) for a, b in zip(new, old, strict=True))


# names of earlier versions
moved, gathered, written, trusted = weights_of, gather, write, bound
restarted, rewound = restart, rewind
