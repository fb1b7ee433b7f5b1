"""Which parameters of a model are matrices of hidden layers, and which are not."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from nestling.core.error import UserError

HEADS = ("lm_head", "head", "classifier", "score")
KINDS = ("matrices", "vectors", "embeddings", "heads")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameter_kinds(module: nn.Module, *, heads: Iterable[str] = HEADS) -> dict[str, str]:
    """The kind of every parameter, by name.

    "embeddings": weights of nn.Embedding, and those tied to one. "heads": parameters of modules
    whose name ends in one of ``heads``. "matrices": weights of linear maps (rank 2, with "weight"
    in the name) and of convolutions that are not depth-wise. "vectors": everything else, including
    raw parameters of higher rank, because nothing says that they act as linear maps.
    """
    names = tuple(heads)
    embeddings = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    found = {}
    for path, part in module.named_modules():
        for own, parameter in part.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            is_map = parameter.ndim == 2 and "weight" in own
            if isinstance(part, CONVOLUTIONS):
                is_map = own == "weight" and part.groups < part.in_channels
            if id(parameter) in embeddings:
                found[name] = "embeddings"
            elif path.rpartition(".")[2] in names:
                found[name] = "heads"
            else:
                found[name] = "matrices" if is_map else "vectors"
    return found


def param_groups(
    module: nn.Module, *, weight_decay: float | int = 0.0, heads: Iterable[str] = HEADS
) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices, vectors, embeddings and heads, each under its ``name``.

    ``weight_decay`` applies to matrices and heads. Only matrices have ``orthogonal=True``, for
    optimizers with orthogonalised steps. Frozen parameters and empty groups are left out; a tied
    parameter comes once. ``heads`` are last parts of module names.

    Source: the split of Muon, which takes hidden matrices only.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))
    >>> [(g["name"], len(g["params"]), g["orthogonal"]) for g in param_groups(model)]
    [('matrices', 1, True), ('vectors', 1, False), ('embeddings', 1, False)]
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            "param_groups takes a module, not parameters: their kind depends on the layers"
        )
    kinds = parameter_kinds(module, heads=heads)
    parts: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts[kinds[name]].append(parameter)
    if not any(parts.values()):
        raise UserError("no parameter of the module requires a gradient; unfreeze some")
    return [
        {
            "params": parameters,
            "name": kind,
            "orthogonal": kind == "matrices",
            "weight_decay": weight_decay if kind in ("matrices", "heads") else 0.0,
        }
        for kind, parameters in parts.items()
        if parameters
    ]
