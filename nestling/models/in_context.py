"""CMS levels that are written from the next-token loss, or from a signal of the head.

The memories cannot do this alone, because the gradient has to come from the layers above them. The
sequence is read in segments: in every row, the tokens of one period of the fastest level.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nestling.core.error import UserError
from nestling.core.gradient import refused, twice
from nestling.core.memory import Flow, detached, map_state
from nestling.core.shapes import Leaf, Shape, Wanted
from nestling.memories.cms.base import ContextMemory, valid_places
from nestling.memories.cms.written import WrittenState
from nestling.memories.grid import Grid, grid
from nestling.memories.parts import matrix
from nestling.rules.level import gather

if TYPE_CHECKING:
    from nestling.models.base import HopePreTrainedModel
    from nestling.models.hf import HopeForCausalLM


class Waiting(NamedTuple):
    """The open segment of every row: the states before it, and its tokens."""

    states: list[Any]  # of every block
    ids: Int[Tensor, "B W"]
    valid: Bool[Tensor, "B W"]
    opens: Bool[Tensor, " B"]  # a document starts with it


WAITING = Wanted(
    "the open segment",
    {
        "ids": Leaf(Shape.of("B W"), "int64"),
        "valid": Leaf(Shape.of("B W"), "bool"),
        "opens": Leaf(Shape.of("B"), "bool"),
    },
)


def check_waiting(model: "HopePreTrainedModel", waiting: Any, rows: int) -> None:
    """Raise UserError unless this is an open segment of ``rows`` rows of this model."""
    if not isinstance(waiting, Waiting):
        raise UserError(
            f"the memory has {type(waiting).__name__}, not an open segment; read the text again"
        )
    WAITING.verify(waiting._asdict(), B=rows)
    model.check_count([*waiting.states, None])
    for block, state in zip(model.body.each(), waiting.states, strict=False):
        block.memory.verify(state, B=rows)


def signalled(model: "HopePreTrainedModel") -> dict[int, ContextMemory]:
    """The memories that wait for a loss or signal from above, by their block."""
    return {
        index: block.memory
        for index, block in enumerate(model.body.each())
        if isinstance(block.memory, ContextMemory) and block.memory.config.objective != "local"
    }


def init_states(model: "HopeForCausalLM", batch: int) -> list[Any]:
    """The states of all blocks before the first token, and an open segment if needed."""
    states = model.own_states(batch)
    if not signalled(model):
        return states
    ids = torch.zeros(batch, 0, dtype=torch.long, device=model.device)
    return [*states, Waiting(states, ids, ids.bool(), torch.zeros_like(ids.sum(1)).bool())]


def read(
    model: "HopeForCausalLM",
    ids: Int[Tensor, "B T"],
    states: list[Any] | None,
    flow: Flow,
    *,
    passed: list[Tensor] | None = None,
) -> tuple[Float[Tensor, "B T V"], list[Any]]:
    """Logits of every position, with the levels written on the way, and the final states.

    For each segment, the C tokens of a row that fill the fastest period:

        g_l = gradient of the sum of -log p(x_{t+1} | x_<=t) for theta_l         ntp
        g_l = gradient of sum of <W^T (p_t - onehot(x_{t+1})), f_l(h_t)>         teach

    at the segment's theta, with the states before the segment as constants. Each level accumulates
    its g_l and is written at its own period. The loss of a segment's last position needs the next
    token, so the segment's gradients are written when that token arrives, before it is read. Thus
    all C terms are included, outputs never depend on later tokens, and a level changes only at
    multiples of its period. A segment that is open at the end of a call is kept in the state with
    its tokens and read again once it is complete, so that any split of a text gives the same
    result.

    With gradients enabled, they flow through the writes (``through="full"``: second order, for
    which every memory uses torch operations). ``passed`` collects the stream before every block and
    after the last norm. A block's ``truncate``, if longer than a segment, is rounded up to whole
    segments.

    Source: arXiv 2512.24695, Eq 71, regime R1. Deviates: gradients through the other memories'
    states are cut at the segment; the head's signal is that of the residual stream for all levels.
    Cost: every token is read two to three times; with second order twice that; without gradients
    one more time.
    """
    if states is not None:
        check_waiting(model, states[-1], len(ids))
    *running, waiting = init_states(model, len(ids)) if states is None else states
    if not ids.shape[1]:
        x = model.backbone.embed_tokens(ids)
        logits, _ = model.stream(x, ids, running, flow, passed=passed)
        return logits, [*running, waiting]
    memories = signalled(model)
    line, joined = _join(waiting, ids, flow)
    first = next(iter(memories))
    count = memories[first].owned(waiting.states[first])[0].level.seen
    period = memories[first].config.periods[0]
    places = last_together(grid(count, joined, line.shape[1], period))
    rows = places.spread(line), valid_places(places)
    if places.shape[0] == 1:
        x = model.backbone.embed_tokens(ids)
        logits, running = model.stream(x, ids, running, flow, passed=passed)
        opened = waiting.states
    else:
        start, old = waiting.states, waiting.ids.shape[1]
        logits, running, opened = _segments(model, memories, start, places, *rows, passed)
        logits = places.collect(logits)[:, old:]
        if passed is not None:
            passed[:] = [places.collect(layer)[:, old:] for layer in passed]
    open_ids, open_valid = rows[0][:, -1], rows[1][:, -1]
    after = Waiting(opened, open_ids, open_valid, places.opens[:, -1])
    return logits, [*_mapped(memories, running, _empty), after]


def _join(waiting: Waiting, ids: Int[Tensor, "B T"], flow: Flow) -> tuple[Int[Tensor, "B L"], Flow]:
    """The open segments, followed by the new tokens."""
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    reset = nothing if flow.reset is None else flow.reset
    mask = ~nothing if flow.mask is None else flow.mask
    if not waiting.ids.shape[1]:
        starts = waiting.opens[:, None] & ~reset[:, :1]
        return ids, Flow(torch.cat((reset[:, :1] | starts, reset[:, 1:]), dim=1), mask)
    old = torch.zeros_like(waiting.valid)
    old[:, 0] = waiting.opens
    return torch.cat((waiting.ids, ids), dim=1), Flow(
        torch.cat((old, reset), dim=1), torch.cat((waiting.valid, mask), dim=1)
    )


def last_together(places: Grid) -> Grid:
    """The same segments, shifted so that each row's last one is at the end of the grid."""
    count, width = places.shape
    held = valid_places(places).any(-1) | places.opens
    index = torch.arange(count, device=held.device)
    last = torch.where(held, index, -1).amax(1)
    shift = count - 1 - last
    place = torch.where(
        places.place < count * width, places.place + shift[:, None] * width, places.place
    )
    source = index - shift[:, None]

    def moved(marks: Bool[Tensor, "B M"]) -> Bool[Tensor, "B M"]:
        return marks.gather(1, source.clamp_min(0)) & (source >= 0)

    return places._replace(place=place, opens=moved(places.opens), closes=moved(places.closes))


def _segments(
    model: "HopeForCausalLM",
    memories: dict[int, ContextMemory],
    states: list[Any],
    places: Grid,
    ids: Int[Tensor, "B M R"],
    valid: Bool[Tensor, "B M R"],
    passed: list[Tensor] | None,
) -> tuple[Float[Tensor, "B M R V"], list[Any], list[Any]]:
    """Read and write segment by segment; logits, and states after and before the last segment."""
    learning = torch.is_grad_enabled()
    rows, opened = [], states
    streams: list[list[Tensor]] = []
    waits = (m.config for m in memories.values() if m.config.objective == "ntp")
    full = learning and any(config.through == "full" for config in waits)
    going_on = valid[:, 1:].any(-1) & ~places.opens[:, 1:]
    done = places.closes[:, :-1] & going_on
    for number in range(places.shape[0]):
        opened = states
        last = number + 1 == places.shape[0]
        flow = _flow(places.opens[:, number], valid[:, number])
        states = _cut(model, states, number, places.shape[1])
        with torch.set_grad_enabled(learning or not last), _order(learning, full):
            states = states if last else _mapped(memories, states, _probed)
            x = model.backbone.embed_tokens(ids[:, number])
            layers: list[Tensor] | None = None if passed is None else []
            logits, states = model.stream(x, ids[:, number], states, flow, passed=layers)
            if not last and bool((now := done[:, number]).any()):
                following = torch.cat((ids[:, number, 1:], ids[:, number + 1, :1]), dim=1)
                moves = _moves(
                    model,
                    memories,
                    states,
                    logits,
                    following,
                    now,
                    learning=learning,
                    first=not rows,
                )
                states = _written(memories, states, moves, now, following.shape[1])
        states = _mapped(memories, states, _empty)
        if not learning:
            states, logits = map_state(Tensor.detach, states), logits.detach()
        rows.append(logits)
        if layers is not None:
            streams.append(layers if learning else [layer.detach() for layer in layers])
    if passed is not None:
        passed += [torch.stack(layer, dim=1) for layer in zip(*streams, strict=True)]
    return torch.stack(rows, dim=1), states, opened


def _cut(model: "HopeForCausalLM", states: list[Any], number: int, length: int) -> list[Any]:
    """The states before segment ``number``; gradients of those with a cut there are detached."""
    after = list(states)
    for index, block in enumerate(model.backbone.each()):
        if number and block.truncate and number % -(-block.truncate // length) == 0:
            after[index] = detached(states[index])
    return after


def _flow(opens: Bool[Tensor, " B"], valid: Bool[Tensor, "B R"]) -> Flow:
    reset = torch.zeros_like(valid)
    reset[:, 0] = opens
    return Flow(reset if bool(opens.any()) else None, None if bool(valid.all()) else valid)


def _order(learning: bool, full: bool) -> contextlib.AbstractContextManager[Any]:
    """Within this context operations are twice differentiable (``full``), or attention is once."""
    if full:
        return twice()
    return sdpa_kernel(SDPBackend.MATH) if learning else contextlib.nullcontext()


def _moves(
    model: "HopeForCausalLM",
    memories: dict[int, ContextMemory],
    states: list[Any],
    logits: Float[Tensor, "B R V"],
    following: Int[Tensor, "B R"],
    done: Bool[Tensor, " B"],
    *,
    learning: bool,
    first: bool,
) -> dict[int, list[tuple[Tensor, ...]]]:
    """The gradients of every level's matrices in the rows whose segment is complete."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    found: dict[int, list[tuple[Tensor, ...]]] = {}
    teach = {i: m for i, m in memories.items() if m.config.objective == "teach"}
    if teach:
        with torch.no_grad():
            error = wide.softmax(-1)
            error = error - functional.one_hot(following, error.shape[-1])
            head = matrix(model.lm_head)[0].to(error.dtype)
            signal = (error * done[:, None, None]) @ head
        for index, memory in teach.items():
            levels = memory.each(), memory.owned(states[index]), memory.starts(states[index])
            found[index] = [a.taught(b, signal, c) for a, b, c in zip(*levels, strict=True)]
    waits = {i: m for i, m in memories.items() if m.config.objective == "ntp"}
    if waits:
        losses = functional.cross_entropy(wide.mT, following, reduction="none")
        loss = (losses * done[:, None]).sum()
        full = learning and any(m.config.through == "full" for m in waits.values())
        probes = [own.probe for i, m in waits.items() for own in m.owned(states[i])]
        flat = [tensor for probe in probes for tensor in probe]
        moves = torch.autograd.grad(loss, flat, create_graph=full, retain_graph=learning)
        if full and first:
            _check_order(moves)
        values = iter(moves)
        for index, memory in waits.items():
            owned = memory.owned(states[index])
            found[index] = [tuple(next(values) for _ in own.probe) for own in owned]
    return found


def _check_order(moves: Iterable[Tensor]) -> None:
    """Raise UserError if these gradients are not differentiable."""
    if refused(moves):
        raise UserError(
            "a memory of this pattern has first-order gradients only; "
            'set through="first" for the levels that learn by "ntp"'
        )


def _mapped(
    memories: dict[int, ContextMemory],
    states: list[Any],
    function: Callable[[WrittenState], WrittenState],
) -> list[Any]:
    """The states with a function applied to every level."""
    after = list(states)
    for index, memory in memories.items():
        owned = tuple(map(function, memory.owned(states[index])))
        after[index] = memory.with_owned(states[index], owned)
    return after


def _probed(level: WrittenState) -> WrittenState:
    """The level with zeros added to its weights, to collect gradients."""
    zeros = (torch.zeros_like(m).requires_grad_() for m in level.level.moved)
    return level._replace(probe=tuple(zeros))


def _empty(level: WrittenState) -> WrittenState:
    """The level without the probes and inputs of a completed segment."""
    return level._replace(probe=(), inputs=level.inputs[:, :0])


def _written(
    memories: dict[int, ContextMemory],
    states: list[Any],
    moves: dict[int, list[tuple[Tensor, ...]]],
    done: Bool[Tensor, " B"],
    length: int,
) -> list[Any]:
    """Add the gradients of a segment of ``length`` tokens, and write the levels that are due."""
    after = list(states)
    for index, memory in memories.items():
        first = memory.config.through == "first"
        levels = memory.each(), memory.owned(states[index]), memory.starts(states[index])
        owned = []
        for level, own, start, move in zip(*levels, moves[index], strict=True):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not first):
                gram = level.grams(own, done, start)
            if first:
                move = tuple(map(Tensor.detach, move))
            taken = gather(own.level, move, seen=done * length, gram=gram)
            owned.append(own._replace(level=taken))
        after[index] = memory.write(memory.with_owned(states[index], tuple(owned)), done)
    return after
