"""Checks that the states of an optimizer fit its parameters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestling.core.error import UserError

REMEDY = "load the state of this very model, or forget it with optimizer.state.pop(parameter, None)"
Groups = Sequence[Mapping[str, Any]]


def look(parameter: Tensor, state: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shapes and devices of a parameter and its state; cheap to compute and compare."""
    parts = [
        (x.shape, x.device) if isinstance(x, Tensor) and name != "step" else name
        for name, x in state.items()
    ]
    return (parameter.shape, parameter.device, *parts)


def compare(
    name: str,
    shape: Sequence[int],
    state: Mapping[str, Any],
    wanted: Mapping[str, Sequence[int]],
    *,
    whole: bool = False,
) -> None:
    """Raise UserError unless a parameter's state has these parts; ``whole``: and no others."""
    for part in state.keys() - wanted.keys() if whole else ():
        if isinstance(state[part], Tensor):
            raise UserError(
                f"the state of {name} has {part!r}: this is the state of another optimizer"
            )
    for part, size in wanted.items():
        x = state.get(part)
        if part == "step" and isinstance(x, int | float):
            continue  # a plain number, as in older versions of torch's optimizers
        if not isinstance(x, Tensor):
            raise UserError(
                f"the state of {name} has no {part!r}: this is the state of another optimizer or "
                f"of other options; {REMEDY}"
            )
        same_size(f"{part!r} of {name}", x, size, shape)


def same_size(what: str, x: Tensor, size: Sequence[int], shape: Sequence[int]) -> None:
    """Raise UserError unless a tensor has the size that goes with a parameter's shape."""
    if tuple(x.shape) != tuple(size):
        raise UserError(
            f"{what} is {list(x.shape)}; a parameter of {list(shape)} needs {list(size)}: {REMEDY}"
        )


def same_place(name: str, parameter: Tensor, state: Mapping[str, Any]) -> None:
    """Raise UserError unless a parameter's state is on the parameter's device."""
    for part, x in state.items():
        if isinstance(x, Tensor) and part != "step" and x.device != parameter.device:
            raise UserError(
                f"{part!r} of {name} is on {x.device}, the parameter on {parameter.device}; move "
                "the model first, then load the state"
            )


def check_gradients(groups: Groups) -> None:
    """Raise UserError for a gradient whose size is not its parameter's."""
    for group in groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.shape != p.shape:
                raise UserError(
                    f"the gradient of {name_of(groups, p)} is {list(p.grad.shape)}, the parameter "
                    f"{list(p.shape)}; clear it with zero_grad and compute it again"
                )


def check_waiting(what: str, groups: Groups, found: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Raise UserError for tensors kept for parameters whose size is not the parameter's."""
    for parameter, x in found:
        if x.shape != parameter.shape:
            same_size(f"{what} of {name_of(groups, parameter)}", x, parameter.shape, x.shape)


def name_of(groups: Groups, parameter: Tensor) -> str:
    """A parameter's name if the optimizer was given names, else its number."""
    number = 0
    for group in groups:
        names = group.get("param_names")
        for place, p in enumerate(group["params"]):
            if p is parameter:
                return str(names[place]) if names else f"parameter {number}"
            number += 1
    return "a parameter"


def loaded(
    groups: Groups, state_dict: Mapping[str, Any]
) -> Iterator[tuple[Tensor, Mapping[str, Any], dict[str, Any]]]:
    """Each parameter with its saved state, and its group with the saved options.

    Empty if the groups differ in length from the saved ones; torch refuses to load those.
    """
    saved = state_dict["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in saved]:
        return
    for group, given in zip(groups, saved, strict=True):
        options = {**group, **given, "params": group["params"]}
        for index, parameter in zip(given["params"], group["params"], strict=True):
            if state := state_dict["state"].get(index):
                yield parameter, state, options


class Watched(Optimizer):
    """One of torch's own optimizers whose states all have the shapes of their parameters.

    Checked on loading and before each step; UserError is raised before anything changes.
    """

    parts: ClassVar[tuple[str, ...]]  # the names of the tensors in a parameter's state

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._watch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch()

    def _watch(self) -> None:
        if _check_step not in self._optimizer_step_pre_hooks.values():
            self.register_step_pre_hook(_check_step)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load as torch does, after checking that every tensor has its parameter's shape."""
        with self.register_load_state_dict_pre_hook(_check_loaded):  # after all other hooks
            super().load_state_dict(state_dict)


def _check_loaded(optimizer: Any, state_dict: dict[str, Any]) -> None:
    for parameter, state, _ in loaded(optimizer.param_groups, state_dict):
        name = name_of(optimizer.param_groups, parameter)
        wanted = {part: () if part == "step" else parameter.shape for part in optimizer.parts}
        compare(name, parameter.shape, state, wanted, whole=True)


def _check_step(optimizer: Any, args: Any, options: Any) -> None:
    if torch.compiler.is_compiling():
        return
    check_gradients(optimizer.param_groups)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state or parameter.grad is None:
                continue
            kept = {part: state.get(part) for part in optimizer.parts if part != "step"}
            here = (parameter.shape, parameter.device)
            if any(x is None or (x.shape, x.device) != here for x in kept.values()):
                name = name_of(optimizer.param_groups, parameter)
                compare(name, parameter.shape, state, dict.fromkeys(kept, parameter.shape))
                same_place(name, parameter, state)
