"""A model and its optimizer as one nested system: all boxes with their periods."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from nestling.core.level import Level
from nestling.core.nested import order
from nestling.core.transfer import KINDS
from nestling.models.hf import HopeForCausalLM
from nestling.optim.leveled import Leveled, steps_of
from nestling.optim.levels import optimizer_levels
from nestling.train.config import TrainConfig

WEIGHTS = "weights"
# the counterparts, for the weights, of transfers that name them as partner
MIRRORED = {
    "initialisation": "they learn its initial state",
    "back-propagation": "the same gradients update both",
}


def nested_system(
    model: HopeForCausalLM,
    optimizer: str | Leveled = "adamw",
    tokens_per_step: int | None = None,
) -> list[Level]:
    """All boxes of a model in training, fast to slow.

    Memories declare their own boxes. The periods of those written by training are rounded up to
    whole optimizer steps of ``tokens_per_step`` tokens of a stream (default: that of TrainConfig,
    or of the optimizer given). Layers of the same kind are merged into one box, "name x4". All
    other weights are the box "weights", and the optimizer has its own boxes for each period.

    Source: arXiv 2512.24695, Def 2-4. Deviates: nothing.
    """
    if isinstance(optimizer, Leveled):
        tokens_per_step = optimizer.tokens_per_step
    tokens_per_step = tokens_per_step or TrainConfig().tokens_per_step
    boxes = merged(model.levels().values())
    trained = [box for box in boxes if not box.per_sequence]
    boxes = [box for box in boxes if box.per_sequence]
    trained = [_clocked(box, tokens_per_step) for box in trained]
    total = sum(parameter.numel() for parameter in model.parameters())
    rest = total - sum(box.parameters for box in trained)
    trained.append(_weights(rest, tokens_per_step, [*boxes, *trained]))
    inner = optimizer.inner if isinstance(optimizer, Leveled) else optimizer
    for period in sorted({int(box.period) for box in trained}):
        group = [box for box in trained if box.period == period]
        count = sum(box.parameters for box in group)
        buffers = optimizer_levels(
            inner, period=period, parameters=count, of=tuple(box.name for box in group)
        )
        names = tuple(buffer.name for buffer in buffers)
        boxes += buffers
        boxes += [dataclasses.replace(b, depends_on=b.depends_on + names) for b in group]
    return [box for level in order(boxes) for box in level]


def merged(levels: Iterable[Level]) -> list[Level]:
    """Merge boxes that differ only in their number of parameters, in the order of the first."""
    groups: dict[Level, list[Level]] = {}
    for level in levels:
        groups.setdefault(dataclasses.replace(level, parameters=0), []).append(level)
    named = {
        kind: f"{kind.name} x{len(g)}" if len(g) > 1 else kind.name for kind, g in groups.items()
    }
    renamed = {kind.name: name for kind, name in named.items()}
    return [
        dataclasses.replace(
            kind,
            name=named[kind],
            parameters=sum(level.parameters for level in group),
            depends_on=tuple(renamed.get(name, name) for name in kind.depends_on),
            transfer=tuple(
                dataclasses.replace(move, partner=renamed.get(move.partner, move.partner))
                for move in kind.transfer
            ),
        )
        for kind, group in groups.items()
    ]


def _clocked(box: Level, tokens_per_step: int) -> Level:
    """A box written by training, with its period rounded up to whole optimizer steps."""
    period = 0 if math.isinf(box.period) else box.period
    return dataclasses.replace(box, period=steps_of(period, tokens_per_step) * tokens_per_step)


def _weights(parameters: int, tokens_per_step: int, others: Iterable[Level]) -> Level:
    """The box of all trained weights that no memory declares, with its transfers to others."""
    moves = [(move, box.name) for box in others for move in box.transfer]
    return Level(
        name=WEIGHTS,
        period=tokens_per_step,
        parameters=parameters,
        objective="next-token prediction",
        rule="gradient descent, the step taken from the optimizer's memories",
        context=f"{tokens_per_step} tokens of every stream of the training text",
        transfer=tuple(
            dataclasses.replace(move, partner=name, what=MIRRORED[move.kind])
            for move, name in moves
            if move.partner == WEIGHTS and move.kind in MIRRORED
        ),
    )


def as_record(levels: Iterable[Level]) -> list[dict[str, Any]]:
    """The system as plain JSON values: levels fast to slow, each with its boxes.

    ``frequency`` is in writes per token; null if it is infinite (``period`` 0).
    """
    return [
        {
            "level": number,
            "period": boxes[0].period,
            "frequency": boxes[0].frequency if boxes[0].period else None,
            "boxes": [_as_record(box) for box in boxes],
        }
        for number, boxes in enumerate(order(levels), start=1)
    ]


def _as_record(box: Level) -> dict[str, Any]:
    """A box as JSON values, its transfers with their equations and whether gradients flow."""
    moves = [
        dataclasses.asdict(move)
        | {"equations": KINDS[move.kind].equations, "gradient": KINDS[move.kind].gradient}
        for move in box.transfer
    ]
    return dataclasses.asdict(box) | {"transfer": moves}
