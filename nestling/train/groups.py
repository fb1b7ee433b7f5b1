"""Sorts parameters into optimizer groups and levels."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from nestling.core.error import UserError
from nestling.optim.groups import parameter_kinds


def decays(model: nn.Module) -> dict[str, bool]:
    """Whether weight decay applies to each parameter: only to matrices of linear maps.

    Norms, biases, embeddings, convolutions, and the gates and initial states of memories are not
    decayed, because zero is not a neutral value for them.
    """
    matrices = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        name: name in matrices and id(parameter) not in tied
        for name, parameter in model.named_parameters()
    }


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    periods: Mapping[str, int] | None = None,
    shares: Mapping[str, float] | None = None,
    rates: Mapping[str, float] | None = None,
    matrices: bool = False,
) -> list[dict[str, Any]]:
    """Optimizer groups, one per period and kind, with ``name``, ``period`` and ``weight_decay``.

    ``periods`` maps parameter names to tokens between two writes; others are written at every step.
    ``shares`` makes parameters nested: their groups have a ``share`` and are reset when the next
    slower period is written (``nestling.optim.Leveled``). ``rates`` maps names to learning-rate
    factors: their groups have a ``rate_factor``, which ``nestling.optim.build.build`` and
    ``nestling.train`` apply. With ``matrices``, groups are also split by ``orthogonal``, which is
    True for the matrices of hidden layers (``nestling.optim.param_groups``). Frozen parameters are
    left out. Raises UserError for names that are not parameters.
    """
    periods, shares, rates = periods or {}, shares or {}, rates or {}
    known = {name for name, _ in model.named_parameters()}
    if unknown := {*periods, *shares, *rates} - known:
        raise UserError(
            "periods, shares or rates have names that are not parameters of the model: "
            f"{', '.join(sorted(unknown)[:3])}"
        )
    decay = decays(model)
    kinds = parameter_kinds(model) if matrices else {}
    groups: dict[tuple[int, bool, bool, float, float | None], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = kinds.get(name) == "matrices"
            factor, share = rates.get(name, 1.0), shares.get(name)
            kind = (periods.get(name, 0), decay[name], matrix, factor, share)
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "name": f"period {period}" if period else "weights",
            "period": period,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        | ({"orthogonal": orthogonal} if matrices else {})
        | ({} if share is None else {"share": share})
        | ({} if factor == 1 else {"rate_factor": factor})
        for (period, decayed, orthogonal, factor, share), parameters in sorted(
            groups.items(), key=lambda item: item[0][:4]
        )
    ]
