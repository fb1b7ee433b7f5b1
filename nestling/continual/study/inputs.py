"""What the maps of a model read, at given lessons."""

import contextlib
from collections.abc import Generator, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.continual.study.body import Body
from nestling.continual.study.training import Lesson

AT_ONCE = 24  # lessons in a row


@torch.no_grad()
def inputs_of(
    body: Body, names: Iterable[str], lessons: Sequence[Lesson]
) -> dict[str, Float[Tensor, "N D"]]:
    """The inputs of the linear maps with these weights, at all tokens of the lessons.

    Weights of other modules are left out, and so are inputs of zeros, at which rows are filled up.
    """
    model = body.reader.model
    with _watched({name: map_of(model, name) for name in names}) as seen:
        for begin in range(0, len(lessons), AT_ONCE):
            part = lessons[begin : begin + AT_ONCE]
            body.features({}, [one.entry for one in part], [one.places for one in part])
    # the parts of a map are dropped once they are joined
    return {name: torch.cat(seen.pop(name)) for name in list(seen)}


def map_of(model: nn.Module, name: str) -> nn.Linear | None:
    """The linear map with a weight of this name; None if the weight is not that of one."""
    module = model.get_submodule(name.rpartition(".")[0])
    return module if isinstance(module, nn.Linear) and name.endswith(".weight") else None


@contextlib.contextmanager
def _watched(maps: dict[str, nn.Linear | None]) -> Generator[dict[str, list[Tensor]]]:
    """Record the inputs of maps within the context."""
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str):
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].detach().flatten(0, -2)
            seen.setdefault(name, []).append(rows[rows.any(1)].float())

        return add

    hooks = [
        module.register_forward_pre_hook(watch(name)) for name, module in maps.items() if module
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
