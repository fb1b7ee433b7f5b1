"""Fold added levels into plain MLPs, where these can compute the same function."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.models.pretrained.families import Family, family_of, mlp_names
from nestling.models.pretrained.folder import Stacked

ADDED = ("chain", "independent")  # variants with networks that transformers does not know

Parts = dict[str, Tensor]  # the tensors of one MLP by name


def folded(base: Stacked, weights: Mapping[str, Tensor]) -> Any:
    """A model of a plain transformers class that computes what ``base`` does with ``weights``.

    ``independent``: k parallel levels become one MLP, k times as wide,

        sum_l a_l W_l act(V_l x) = [a_1 W_1 ... a_k W_k] act([V_1; ...; V_k] x)

    and likewise for gated ones, as the activation is elementwise. ``chain``: a level with zero
    output, such as one never written, is dropped. A written one raises UserError: it reads the
    output of the slower ones, which a single MLP cannot express. ``base`` is not changed. Cost: a
    second model in memory.
    """
    model, family = base.model, family_of(base.model.config.model_type)
    state = {**model.state_dict(), **weights}
    config, count = copy.deepcopy(model.config), len(base.levels)
    for name in mlp_names(model, config.model_type):
        if base.variant == "independent":
            heads = [f"{name}.levels.{index}." for index in range(count)]
            levels = [_taken(state, f"{head}mlp.") for head in heads]
            shares = [state.pop(f"{head}weight") for head in heads]
            linear = isinstance(_output_map(model, heads[0] + "mlp", family), nn.Linear)
            mlp = _side_by_side(levels, shares, family, linear)
            output = mlp[f"{family.output}.weight"]
            setattr(config, family.width, output.shape[1 if linear else 0])
        else:
            mlp, *added = [_taken(state, f"{name}.levels.{index}.") for index in range(count)]
            for level, parts in zip(base.levels[1:], added, strict=True):
                if any(part.any() for key, part in parts.items() if _map(key) == family.output):
                    raise UserError(
                        f"level {level.text} of this chain has been written and reads the output "
                        "of slower levels, which no MLP of transformers can express; consolidate "
                        "it into level 0 first (nestling memory consolidate), or adapt with "
                        "--variant independent"
                    )
        state.update({f"{name}.{inner}": part for inner, part in mlp.items()})
    with torch.random.fork_rng(devices=[]):
        plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(state)
    plain.generation_config = model.generation_config
    return plain.eval()


def _taken(state: dict[str, Tensor], head: str) -> Parts:
    """Remove the tensors under a name from a state dict and return them."""
    return {name.removeprefix(head): state.pop(name) for name in [*state] if name.startswith(head)}


def _map(name: str) -> str:
    return name.rpartition(".")[0]


def _output_map(model: nn.Module, name: str, family: Family) -> nn.Module:
    return model.get_submodule(f"{name}.{family.output}")


def _side_by_side(
    levels: Sequence[Parts], shares: Sequence[Tensor], family: Family, linear: bool
) -> Parts:
    """Combine several MLPs into one: hidden units concatenated, outputs weighted and summed.

    ``linear``: weights are [out, in], as in torch; otherwise [in, out], as in GPT-2.
    """
    rows, columns = (0, 1) if linear else (1, 0)
    found = {}
    for name in levels[0]:
        parts = [level[name] for level in levels]
        if _map(name) == family.output:
            scaled = [share * part for share, part in zip(shares, parts, strict=True)]
            matrix = parts[0].ndim == 2
            found[name] = torch.cat(scaled, columns) if matrix else torch.stack(scaled).sum(0)
            continue
        axis = rows if parts[0].ndim == 2 else 0
        # keep the order of a weight that concatenates several maps
        each = zip(*(part.chunk(family.fused, axis) for part in parts), strict=True)
        found[name] = torch.cat([part for group in each for part in group], axis)
    return found
