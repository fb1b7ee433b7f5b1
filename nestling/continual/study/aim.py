"""Aims a change at the input directions in which a document differs from other text."""

import contextlib
from collections.abc import Generator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.continual.study.body import Body
from nestling.continual.study.change import Change, Factors, drawn
from nestling.continual.study.training import Lesson

LOOKED = 24  # own lessons to sample
RIDGE = 0.1  # regularisation of the covariance, as a fraction of the mean square of an input


@torch.no_grad()
def aimed(
    change: Change, body: Body, own: Sequence[Lesson], others: Sequence[Lesson], seed: int
) -> Change:
    """A zero change whose right factors respond to ``own`` lessons rather than to ``others``.

    Each row is a random mixture of a map's inputs X at the target places of ``own`` lessons, minus
    their mean, divided by the covariance C of its inputs in the others, and normalised:

        right = normalised(G (X - mean) (C + e I)^-1)

    so that a write at a document's keys has little effect elsewhere. Source: the keys of arXiv
    2210.07229 (MEMIT), as rows of a low-rank change. Deviates: rows are mixtures, and they are
    trained further.
    """
    names = [name for name in change if _linear(body.reader.model, name) is not None]
    with _watched(body.reader.model, names) as seen:
        _read(body, own[:LOOKED])
        mine = {name: torch.cat(parts) for name, parts in seen.items()}
        seen.clear()
        for begin in range(0, len(others), LOOKED):
            _read(body, others[begin : begin + LOOKED])
        rest = {name: torch.cat(parts) for name, parts in seen.items()}
    found = dict(change)
    for name in names:
        if name in mine and name in rest:
            left, right = change[name]
            rows = _rows(mine[name], rest[name], drawn(len(right), len(mine[name]), seed, name))
            found[name] = Factors(left, rows.to(right))
    return found


def _rows(
    mine: Float[Tensor, "N D"], rest: Float[Tensor, "M D"], mix: Float[Tensor, "R N"]
) -> Float[Tensor, "R D"]:
    centre = rest.mean(0)
    other = rest - centre
    spread = other.T @ other / len(other)
    spread.diagonal().add_(RIDGE * spread.diagonal().mean().clamp_min(1e-12))
    rows = torch.linalg.solve(spread, ((mix.to(mine) @ (mine - centre)).T)).T
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _read(body: Body, lessons: Sequence[Lesson]) -> None:
    if lessons:
        body.features({}, [one.entry for one in lessons], [one.places for one in lessons])


def _linear(model: nn.Module, name: str) -> nn.Linear | None:
    module = model.get_submodule(name.rpartition(".")[0])
    return module if isinstance(module, nn.Linear) and name.endswith(".weight") else None


@contextlib.contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Generator[dict[str, list[Tensor]]]:
    """Record the inputs of linear maps within the context, by the names of their weights."""
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str):
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, []).append(args[0].detach().flatten(0, -2).float())

        return add

    hooks = []
    for name in names:
        module = _linear(model, name)
        if module is not None:
            hooks.append(module.register_forward_pre_hook(watch(name)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
