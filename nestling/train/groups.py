"""Which parameters go to which optimizer group and level."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from nestling.core.error import UserError
from nestling.optim.groups import parameter_kinds


def decays(model: nn.Module) -> dict[str, bool]:
    """Whether weight decay applies, for each parameter: to matrices of linear maps only.

    Norms, biases, embeddings, convolutions, and the memories' gates and initial states have none:
    zero is not "no effect" for them.
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
    """Optimizer groups: one for each period and kind, with ``name``, ``period``, ``weight_decay``.

    ``periods`` gives tokens between two writes by parameter name; a name without one is written at
    every step. ``shares`` makes parameters nested: their groups have a ``share``, and are reset
    when the next slower period is written (``nestling.optim.Leveled``). Frozen parameters are left
    out. ``rates`` gives factors on the learning rate (1 without one): their groups have a
    ``rate_factor``, which ``nestling.optim.build.build`` and ``nestling.train`` multiply theirs by.
    With ``matrices`` the groups are split besides by ``orthogonal``, True for the matrices of
    hidden layers (``nestling.optim.param_groups``).
    """
    periods, shares, rates = periods or {}, shares or {}, rates or {}
    known = {name for name, _ in model.named_parameters()}
    if unknown := {*periods, *shares, *rates} - known:
        raise UserError(
            "periods, shares or rates name no parameter of the model: "
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
