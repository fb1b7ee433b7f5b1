"""Optimizers made from a rule of ``nestling.rules``, which writes each parameter as a memory."""

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
        """The memories of gradients of the rule."""
        return self.rule(group).records

    def unread(self, group: dict[str, Any]) -> dict[str, str]:
        """The options that the rule does not use, each with the reason."""
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
        """The gradients after the preconditioner, if there is one."""
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
    """The columns split into batches, one for each call of the rule.

    An elementwise rule gets one tensor at a time, and on a CPU a large one some rows at a time, so
    that its operations stay in the cache; any other rule gets all tensors of one shape together.
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
    """Tensors of one shape, stacked; a single tensor is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def constants(rule: type[Rule]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that picks the options of a group that are fields of the rule."""
    names = [field.name for field in dataclasses.fields(rule)]  # ty: ignore[invalid-argument-type]
    return lambda group: {name: group[name] for name in names if name in group}


def dtype_of(precision: str) -> torch.dtype:
    """The dtype in which Newton-Schulz multiplies."""
    return getattr(torch, precision)


def check_newton_schulz(steps: int, precision: str) -> None:
    """Raise UserError for an invalid number of steps or precision of Newton-Schulz."""
    check_choice("ns_precision", precision, PRECISIONS)
    if not 1 <= steps < 100:
        raise UserError(f"ns_steps is {steps}; give 1 to 99 (Muon uses 5)")


class Written(Ruled):
    """Any rule as an optimizer, with constants of your choice.

        optimizer = Written(model.parameters(), lr=1e-2, rule=Muon(alpha=0.95))

    ``rule`` is a rule of ``nestling.rules`` or its name. A rule that erases along the inputs of a
    layer raises UserError: only ``DeltaGD`` records them.

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
        """The state to copy, the rule included."""
        return super().__getstate__() | {"_rule": self._rule, "name": self.name}

    def rule(self, group: dict[str, Any]) -> Rule:
        """The rule that was given."""
        return self._rule
