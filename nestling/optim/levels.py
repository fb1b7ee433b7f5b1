"""The boxes an optimizer adds to a nested system: its memories of gradients."""

from torch import nn
from torch.optim import Optimizer

from nestling.core.level import Level
from nestling.core.transfer import Transfer
from nestling.optim.base import GradientMemory
from nestling.optim.build import build, default_lr
from nestling.optim.torch_optimizers import records_of_torch
from nestling.rules import GradientRecord


def records_of(optimizer: Optimizer | str) -> tuple[str, tuple[GradientRecord, ...]]:
    """The name of an optimizer and its memories of gradients.

    A name stands for an optimizer with default options; of an optimizer the first group counts. An
    unknown name raises UserError.
    """
    if isinstance(optimizer, str):
        layer = nn.Linear(1, 1)
        groups = [{"params": list(layer.parameters())}]
        made = build(optimizer, layer, groups, lr=default_lr(optimizer))
        return optimizer, records_of(made)[1]
    if isinstance(optimizer, GradientMemory):
        return optimizer.name, optimizer.records(optimizer.param_groups[0])
    return records_of_torch(optimizer)


def optimizer_levels(
    optimizer: Optimizer | str,
    *,
    period: int,
    parameters: int,
    of: tuple[str, ...] = ("weights",),
) -> list[Level]:
    """The boxes an optimizer keeps for ``parameters`` weights written every ``period`` tokens.

    ``of`` is the name of the weights' own box. The boxes share one level, and the weights' box
    depends on them (Def 2: same frequency, and the new weights need the new buffers). An unknown
    optimizer raises UserError.
    """
    name, records = records_of(optimizer)
    return [
        Level(
            name=f"{name} {record.name}, period {period * record.steps}",
            period=period * record.steps,
            parameters=parameters,
            objective=record.objective,
            rule=record.rule,
            context=f"gradients of the weights, one for each {period} tokens of a stream",
            transfer=tuple(move for box in of for move in between(box, record.what)),
        )
        for record in records
    ]


def between(weights: str, what: str) -> tuple[Transfer, Transfer]:
    """The step that a memory of gradients gives to weights, and the gradients they give to it.

    Source: arXiv 2512.24695, Eq 22-23, section 3.3: a model makes the context of its optimizer.
    """
    return (
        Transfer(kind="direct", partner=weights, what=what),
        Transfer(kind="context generation", partner=weights, what="their gradients are its keys"),
    )
