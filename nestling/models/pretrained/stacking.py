"""Ad-hoc level stacking: the MLPs of a trained model become the levels of a CMS."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.error import UserError, did_you_mean
from nestling.models.pretrained.families import family_of, mlp_names
from nestling.models.pretrained.level import LevelSpec

VARIANTS = ("partition", "whole", "chain", "independent", "low-rank")
RANK = 16  # default rank of the change that a document makes


class ChainedMLP(nn.Module):
    """The pretrained MLP followed by residual ones whose output starts at zero.

    ``y_1 = MLP_1(x)``, ``y_l = y_{l-1} + MLP_l(x + y_{l-1})``: in series in place of the pretrained
    MLP, whose input x is already normalised.
    """

    def __init__(self, pretrained: nn.Module, output: str, count: int):
        super().__init__()
        self.levels = nn.ModuleList([pretrained])
        for _ in range(count - 1):
            added = copy.deepcopy(pretrained)
            for parameter in added.get_submodule(output).parameters():
                nn.init.zeros_(parameter)
            self.levels.append(added)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Pass x through the levels, slow to fast."""
        y = self.levels[0](x)
        for level in self.levels[1:]:
            y = y + level(x + y)
        return y


class IndependentMLP(nn.Module):
    """Parallel copies of the pretrained MLP: ``y = sum_l a_l MLP_l(x)``, initially a_l = 1 / k.

    The weight a_l is a parameter of level l and written with it.

    Source: arXiv 2512.24695, Eq 74, with a learned weighted sum as Agg. Deviates: nothing.
    """

    def __init__(self, pretrained: nn.Module, count: int):
        super().__init__()
        copies = [copy.deepcopy(pretrained) for _ in range(count - 1)]
        self.levels = nn.ModuleList(Weighted(mlp, 1.0 / count) for mlp in (pretrained, *copies))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The weighted sum of the levels' outputs."""
        return torch.stack([level(x) for level in self.levels]).sum(0)


class Weighted(nn.Module):
    """An MLP and the weight of its output."""

    def __init__(self, mlp: nn.Module, weight: float):
        super().__init__()
        self.mlp = mlp
        like = next(mlp.parameters())
        self.weight = nn.Parameter(like.new_full((1,), weight))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """``a MLP(x)``."""
        return self.weight * self.mlp(x)


def stack(
    model: nn.Module, model_type: str, levels: Sequence[LevelSpec], variant: str = "partition"
) -> list[list[str]]:
    """Turn a model's MLPs into levels; returns the parameter names of each, slow to fast.

    "partition" (option A) adds nothing: the layers are divided into contiguous groups, the lowest
    for the slowest level, unless the levels name their layers. "whole" divides them likewise and
    gives a level entire layers, attention and norms included; embeddings go with the lowest layer,
    the final norm and head with the highest. "chain" (option B) and "independent" put one MLP per
    level into every layer, the pretrained one as the slowest. "low-rank" adds nothing: its single
    level is written by study, in the layers it names or ``upper_layers``. Until a level is
    written, the model computes what it did before.

    Source: arXiv 2512.24695, section 7.3; the grouping is ours, the paper states none. Deviates:
    "whole" writes more than MLPs.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}: {did_you_mean(variant, VARIANTS)}")
    names = mlp_names(model, model_type)
    if (variant == "low-rank") != (levels[0].rank is not None):
        raise UserError("variant low-rank, and no other, needs a level with a rank")
    if variant == "low-rank":
        return shared_out(model, names, upper_layers(levels, len(names)))
    if variant == "partition":
        return shared_out(model, names, levels)
    if variant == "whole":
        return _all_shared_out(model, family_of(model_type).layers, levels)
    if any(level.layers is not None for level in levels):
        raise UserError(f"variant {variant} puts every level into every layer; leave out layers")
    output = family_of(model_type).output
    for name in names:
        pretrained = model.get_submodule(name)
        stacked = (
            ChainedMLP(pretrained, output, len(levels))
            if variant == "chain"
            else IndependentMLP(pretrained, len(levels))
        )
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, stacked)
    return [
        [p for name in names for p in _parameters(model, f"{name}.levels.{index}")]
        for index in range(len(levels))
    ]


def studied_level(rank: int | None = None, layers: tuple[int, ...] | None = None) -> LevelSpec:
    """The level of variant "low-rank", which reading never writes."""
    return LevelSpec(period=math.inf, rank=rank or RANK, layers=layers)


def upper_layers(levels: Sequence[LevelSpec], count: int) -> tuple[LevelSpec, ...]:
    """The levels; one that names no layers of a model's ``count`` gets the upper three eighths.

    They learn by study nearly as well as the upper half, at five sixths of the cost.
    """
    upper = tuple(range(count - max(1, round(3 * count / 8)), count))
    return tuple(replace(one, layers=one.layers or upper) for one in levels)


def shared_out(
    model: nn.Module, names: Sequence[str], levels: Sequence[LevelSpec]
) -> list[list[str]]:
    """Divide modules, low to high, among the levels; returns the parameters of each."""
    groups = _groups(len(names), levels)
    return [[p for index in group for p in _parameters(model, names[index])] for group in groups]


def _all_shared_out(model: nn.Module, layers: str, levels: Sequence[LevelSpec]) -> list[list[str]]:
    """Every parameter of the model, assigned to its layer or the nearest one."""
    count = len(list(model.get_submodule(layers).children()))
    found: list[list[str]] = [[] for _ in range(count)]
    place, head = 0, f"{layers}."
    for name, _ in model.named_parameters():
        if name.startswith(head):
            place = int(name.removeprefix(head).split(".")[0])
        found[place].append(name)
    groups = _groups(count, levels)
    return [[name for index in group for name in found[index]] for group in groups]


def _parameters(model: nn.Module, name: str) -> list[str]:
    return [f"{name}.{inner}" for inner, _ in model.get_submodule(name).named_parameters()]


def _groups(count: int, levels: Sequence[LevelSpec]) -> list[list[int]]:
    """The layers of each level: those it names, or equal contiguous shares, lower ones slower."""
    named = [level.layers for level in levels]
    if all(layers is None for layers in named):
        if len(levels) > count:
            raise UserError(
                f"{len(levels)} levels are too many for the model's {count} layers; give fewer"
            )
        edges = [count * i // len(levels) for i in range(len(levels) + 1)]
        return [list(range(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
    groups = [list(layers or ()) for layers in named]
    chosen = [layer for group in groups for layer in group]
    if bad := [layer for layer in chosen if not 0 <= layer < count]:
        raise UserError(f"there is no layer {bad[0]}; the model has layers 0 to {count - 1}")
    if len(set(chosen)) != len(chosen):
        raise UserError("a layer is given to several levels; give each to one only")
    for level, group in zip(levels, groups, strict=True):
        if not group and not level.frozen:
            raise UserError(f"the level of period {level.period} has no layers; give it some")
    return groups
