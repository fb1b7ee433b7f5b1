"""Optimizers that are a rule of ``nestling.rules``: each parameter is a memory that it writes."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.native import plain
from nestling.core.options import refuse_unread
from nestling.optim.base import BLOCK, GradientMemory, check_choice, wide_dtype
from nestling.rules import RULES, Evidence, GradientRecord, Rule

PRECISIONS = ("bfloat16", "float32")


class Ruled(GradientMemory):
    """What an optimizer adds to its rule: groups, states by parameter, batches of one shape."""

    alike = True

    @abstractmethod
    def rule(self, group: dict[str, Any]) -> Rule:
        """The rule with the constants of a group."""

    def records(self, group: dict[str, Any]) -> tuple[GradientRecord, ...]:
        """Those of the rule."""
        return self.rule(group).records

    def unread(self, group: dict[str, Any]) -> dict[str, str]:
        """What the rule does not read, by the names of the options."""
        found = self.rule(group).unread()
        if "ns_dtype" in found:
            found["ns_precision"] = found.pop("ns_dtype")
        return found

    def _passed(
        self,
        rule: Any,
        group: dict[str, Any],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> list[Tensor]:
        """The gradients behind a preconditioner; as they are if there is none."""
        return gradients

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        rule = self.rule(group)
        row = torch.zeros_like(parameter, dtype=wide_dtype(parameter)).detach()[None]
        return {name: x.squeeze(0) for name, x in zip(rule.buffers, rule.start(row), strict=True)}

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        rule, eta = self.rule(group), float(group["lr"])
        columns = [[state[name] for state in states] for name in rule.buffers]
        taken = self._passed(rule, group, gradients, states, step)
        for some, g, passed, *kept in batches(rule, parameters, gradients, taken, *columns):
            number = torch.full((len(some),), step)
            more = {} if taken is gradients else {"passed": joined(passed)}
            buffers = tuple(map(joined, kept))
            change, after = rule.step(eta, Evidence(joined(g)), buffers, number, **more)
            for parameter, move in zip(some, change, strict=True):
                parameter.add_(move)
            for olds, news in zip(kept, after, strict=True):
                for old, new in zip(olds, news, strict=True):
                    old.copy_(new)


def batches(rule: Rule, *columns: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """The same columns in pieces: what one call of the rule is given.

    A rule that goes number by number gets one tensor at a time, of a large one on a CPU some rows,
    so that all its operations find them in the cache; another gets tensors of one shape together.
    """
    if not rule.elementwise:
        yield [list(tensors) for tensors in columns]
        return
    for row in zip(*columns, strict=True):
        first = row[0]
        if first.numel() <= BLOCK or first.ndim == 0 or not all(map(fits, row)):
            yield [[x] for x in row]
            continue
        rows = max(1, BLOCK // max(1, first[0].numel()))
        for parts in zip(*(x.split(rows) for x in row), strict=True):
            yield [[part] for part in parts]


def fits(x: Tensor) -> bool:
    """Whether a tensor may be cut into rows."""
    return plain(x) and x.device.type == "cpu"


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as the rows of a batch; of one of them, no copy."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def constants(rule: type[Rule]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Those of a group that are fields of the rule."""
    names = [field.name for field in dataclasses.fields(rule)]  # ty: ignore[invalid-argument-type]
    return lambda group: {name: group[name] for name in names if name in group}


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of the products of Newton-Schulz."""
    return getattr(torch, precision)


def check_newton_schulz(steps: int, precision: str) -> None:
    """Raise UserError for steps or a precision that Newton-Schulz cannot be given."""
    check_choice("ns_precision", precision, PRECISIONS)
    if not 1 <= steps < 100:
        raise UserError(f"ns_steps is {steps}; give 1 to 99 (Muon uses 5)")


class Written(Ruled):
    """Any rule as an optimizer, with your own constants.

        optimizer = Written(model.parameters(), lr=1e-2, rule=Muon(alpha=0.95))

    ``rule`` is a value of ``nestling.rules`` or its name there. A rule that erases along a layer's
    inputs raises UserError: ``DeltaGD`` hears them.

    >>> from nestling.rules import Momentum
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = Written([weight], lr=0.1, rule=Momentum(alpha=0.5))
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     weight.sum().backward()
    ...     optimizer.step()
    >>> weight.data
    tensor([0.7500, 0.7500])
    """

    default_lr: ClassVar[float] = 1e-2

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-2,
        *,
        rule: Rule | str = "momentum",
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        if isinstance(rule, str):
            check_choice("rule", rule, RULES)
            rule = RULES[rule]()
        if rule.erases:
            raise UserError("this rule needs the inputs of layers; use DeltaGD")
        refuse_unread(type(rule).__name__, rule, rule.unread())
        self._rule = rule
        names = {kind: name for name, kind in RULES.items()}
        self.name = names.get(type(rule), type(rule).__name__)
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options={},
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along, the rule too."""
        return super().__getstate__() | {"_rule": self._rule, "name": self.name}

    def rule(self, group: dict[str, Any]) -> Rule:
        """The one given."""
        return self._rule
