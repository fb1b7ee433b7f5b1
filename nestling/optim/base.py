"""The base classes of the optimizers: checks of gradients, and batching of parameters."""

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestling.core.error import UserError
from nestling.core.options import UnreadOption
from nestling.optim import states, sweep
from nestling.rules.newton_schulz import whole
from nestling.rules.rule import GradientRecord

NONFINITE = ("raise", "skip", "ignore")
# Elements processed at once. Elementwise on a CPU: a few such tensors fit in its cache; otherwise:
# what a CPU, or another device, can spare beside a model
BLOCK, CPU_BATCH, DEVICE_BATCH = 2**18, 2**18, 2**28


class GradientMemory(Optimizer, ABC):
    """A torch optimizer that is a memory of gradients.

    Groups may have their own ``lr``, ``weight_decay`` (decoupled: the weights shrink by lr times
    it) and ``maximize``. Parameters without a gradient are skipped. ``nonfinite`` says what a step
    does when any gradient is non-finite: "raise" a UserError before anything is changed, "skip" the
    step (counted in ``skipped``), or "ignore" it, which saves a pass over the gradients. States are
    kept in float32 or wider. Complex parameters and sparse gradients raise UserError.
    """

    # The option that OneCycleLR and CyclicLR cycle as the momentum; None: there is none. They set
    # "momentum" in the groups, and each step copies it to this option
    cycled: ClassVar[str | None] = None
    name: str  # on the command line
    default_lr: ClassVar[float]  # a reasonable learning rate
    hears_inputs: ClassVar[bool] = False  # True: the step depends on the inputs of layers, too
    # True: the parameters of a batch have one shape
    alike: bool = False
    # True: all parameters of a group that lie on one device are written at once
    whole_groups: bool = False
    # Writes as much of a group as it can in one pass, given the memories and the gradient norms by
    # parameter; the rest goes through `_write`
    at_once: ClassVar[Callable[[dict[str, Any], list[Tensor], Any, Any], list[Tensor]] | None] = (
        None
    )

    def __init__(
        self,
        params: Any,
        *,
        lr: float | int,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
        options: dict[str, Any],
    ):
        if isinstance(params, nn.Module):
            raise TypeError(
                f"{type(self).__name__} takes parameters; give module.parameters() or "
                "nestling.optim.param_groups(module)"
            )
        if nonfinite not in NONFINITE:
            raise UserError(f"nonfinite is {nonfinite!r}; choose one of {', '.join(NONFINITE)}")
        at_least(0, lr=lr, weight_decay=weight_decay)
        self.nonfinite = nonfinite
        self._warned = False  # whether a warning said that there is no momentum to cycle
        self.skipped = 0  # steps left out because a gradient was non-finite
        # norms of the gradients of this step, where they were computed
        self._lengths: dict[Tensor, Tensor] = {}
        self._seen: dict[Tensor, Any] = {}  # shapes that passed the check at the last step
        defaults = {"lr": lr, "weight_decay": weight_decay, "maximize": maximize, **options}
        # schedulers look for it in the defaults alone
        super().__init__(params, defaults | {"momentum": options.get(self.cycled, 0.0)})
        self._refuse_unread(options, self.param_groups)

    def unread(self, group: dict[str, Any]) -> dict[str, str]:
        """The options of a group that have no effect given the others, each with the reason."""
        return {}

    def _refuse_unread(self, options: dict[str, Any], groups: Sequence[dict[str, Any]]) -> None:
        """Raise UnreadOption for an option that was set but has no effect in any group."""
        known = inspect.signature(type(self).__init__).parameters
        unread = [self.unread(group) for group in groups]
        for name in options.keys() & known:
            reasons = [found.get(name) for found in unread]
            if all(reasons) and options[name] != known[name].default:
                raise UnreadOption(
                    f"{name}={options[name]!r} has no effect with {reasons[0]}; leave it out", name
                )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; complex parameters and options without effect raise UserError."""
        self._take_momentum(param_group)
        named = {k: v for k, v in param_group.items() if v is not self.defaults.get(k)}
        self._refuse_unread(named, [self.defaults | param_group])
        super().add_param_group(param_group)
        del self.param_groups[-1]["momentum"]
        for parameter in self.param_groups[-1]["params"]:
            if parameter.is_complex():
                raise UserError(
                    "complex parameters are not supported; pass torch.view_as_real of them"
                )

    def _take_momentum(self, group: dict[str, Any]) -> None:
        """Copy the momentum that a scheduler has set to this optimizer's own option."""
        if (value := group.pop("momentum", None)) is None:
            return
        if self.cycled is not None:
            group[self.cycled] = value
        elif value and not self._warned:
            self._warned = True
            name = type(self).__name__
            warnings.warn(f"{name} has no momentum; a scheduler cycles its rate only", stacklevel=3)

    @classmethod
    def of_module(
        cls, module: nn.Module, groups: Any, *, lr: float | int, betas: Any = None
    ) -> "GradientMemory":
        """Build for groups of a module's parameters; ``betas`` are AdamW's and ignored."""
        return cls(groups, lr=lr)  # ty: ignore[missing-argument]

    @abstractmethod
    def records(self, group: dict[str, Any]) -> tuple[GradientRecord, ...]:
        """The memories of gradients that a group keeps, as ``nestling levels`` prints them."""

    @abstractmethod
    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter before its first gradient."""

    @abstractmethod
    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        """Update each state with its gradient and write the parameters.

        ``step`` counts from 1; it is 0 for whole groups, whose parameters may be at different
        steps.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the states and write the parameters; returns what ``closure``, if any, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._take_momentum(group)
        work = [
            (group, [p for p in group["params"] if p.grad is not None and p.numel()])
            for group in self.param_groups
        ]
        given = [p for _, parameters in work for p in parameters]
        found = [p.grad for p in given if p.grad is not None]
        if any(gradient.is_sparse for gradient in found):
            raise UserError(
                "sparse gradients are not supported; build the embedding with sparse=False"
            )
        if not torch.compiler.is_compiling():
            states.check_gradients(self.param_groups)
            self._check_states(work)
        self._lengths = {}
        if self.nonfinite != "ignore":
            known = lengths(found)
            if not finite(found, known):
                if self.nonfinite == "raise":
                    raise UserError(
                        "a gradient is not finite, and nothing was changed; use "
                        'nonfinite="skip" to skip such steps'
                    )
                self.skipped += 1
                return loss
            self._lengths = dict(zip(given, known, strict=True))
        for group, parameters in work:
            self._step_group(group, parameters)
        return loss

    def _check_states(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        """Raise UserError for a state whose size or device is not its parameter's."""
        for group, parameters in work:
            for parameter in parameters:
                state = self.state.get(parameter)
                if not state or self._seen.get(parameter) == (
                    seen := states.look(parameter, state)
                ):
                    continue
                self._compare(parameter, state, group)
                states.same_place(states.name_of(self.param_groups, parameter), parameter, state)
                self._seen[parameter] = seen

    def _compare(
        self, parameter: Tensor, state: Any, group: dict[str, Any], *, whole: bool = False
    ) -> None:
        """Raise UserError unless a state has the structure of a new one for this parameter."""
        like = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        wanted = {name: x.shape for name, x in self._start(like, group).items()}
        if parameter is group["params"][0]:
            wanted |= self._shared(group, state)
        name = states.name_of(self.param_groups, parameter)
        states.compare(name, parameter.shape, state, {"step": (), **wanted}, whole=whole)

    def _shared(self, group: dict[str, Any], state: Any) -> dict[str, Sequence[int]]:
        """The shapes of the tensors that a group keeps with its first parameter."""
        return {}

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                # a tensor, as in torch's own optimizers: tools that save states expect one
                state["step"] = torch.zeros(())
                state.update(self._start(parameter, group))
            state["step"] += 1
        rest = parameters
        if self.at_once is not None and sweep.available():
            rest = self.at_once(group, parameters, self.state, self._lengths)
        for batch, step in self._batches(rest):
            states = [self.state[p] for p in batch]
            wide = [p.grad.to(wide_dtype(p)) for p in batch if p.grad is not None]
            gradients = list(torch._foreach_neg(wide)) if group["maximize"] else wide
            if group["weight_decay"]:
                torch._foreach_mul_(batch, 1 - float(group["lr"]) * group["weight_decay"])
            self._write(group, batch, gradients, states, step)

    def _batches(self, parameters: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], int]]:
        """Parameters that are written together, with their step number."""
        kinds: dict[Any, list[Tensor]] = {}
        for parameter in parameters:
            count = self.state[parameter]["step"]
            kind = (parameter.device, parameter.dtype, type(parameter), int(count))
            if self.whole_groups:
                kind = (parameter.device, None, None, 0)
            shape = parameter.shape if self.alike else None
            kinds.setdefault((*kind, shape), []).append(parameter)
        for (device, _, _, step, _), some in kinds.items():
            limit, size, batch = CPU_BATCH if device.type == "cpu" else DEVICE_BATCH, 0, []
            for parameter in some:
                if batch and size + parameter.numel() > limit and not self.whole_groups:
                    yield batch, step
                    size, batch = 0, []
                batch.append(parameter)
                size += parameter.numel()
            yield batch, step

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy: torch's, and the handling of non-finite gradients."""
        own = {name: getattr(self, name) for name in ("nonfinite", "skipped", "_warned")}
        return super().__getstate__() | own | {"_lengths": {}, "_seen": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, on the parameters' devices, in the saved dtypes."""
        given = state_dict

        def note(_: Optimizer, state_dict: dict[str, Any]) -> None:
            nonlocal given  # earlier hooks may have replaced it
            given = state_dict
            self._check_loaded(given)

        before = self.register_load_state_dict_pre_hook(note)
        after = self.register_load_state_dict_post_hook(
            lambda _: self._take_up(given), prepend=True
        )
        with before, after:
            super().load_state_dict(state_dict)

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        """Raise UserError unless this is the state of these parameters in this optimizer."""
        for group in state_dict["param_groups"]:
            if lacking := self.defaults.keys() - {"momentum"} - group.keys():
                raise UserError(
                    f"this is the state of another optimizer: {type(self).__name__} needs "
                    f"{', '.join(sorted(lacking))}"
                )
        for parameter, state, group in states.loaded(self.param_groups, state_dict):
            self._compare(parameter, state, group, whole=True)

    def _take_up(self, state_dict: dict[str, Any]) -> None:
        """Restore tensors that torch's own loading has converted to a narrower dtype."""
        order = [p for group in self.param_groups for p in group["params"]]
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        for index, parameter in zip(indices, order, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                # torch casts to the parameter's dtype, which is too narrow for a memory
                if isinstance(value, Tensor) and name != "step":
                    self.state[parameter][name] = value.detach().to(parameter.device, copy=True)


def at_least(least: float | int, **values: float | int) -> None:
    """Raise UserError for a value below ``least``, or non-finite."""
    for name, value in values.items():
        if not value >= least or math.isinf(value):
            raise UserError(f"{name} is {value}; give a number of at least {least}")


def fraction(**values: float | int) -> None:
    """Raise UserError for a value that is not from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}; give a fraction from 0 to 1")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise UserError for a value that is not in ``choices``."""
    if value not in (known := list(choices)):
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(map(str, known))}")


def wide_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the state: the parameter's, but at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def lengths(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The norm of each gradient, in its own dtype; in float64 where the compiled code is used."""
    kinds: dict[Any, list[int]] = {}
    compiled = sweep.available()
    for number, gradient in enumerate(gradients):
        kind = (gradient.device, gradient.dtype, type(gradient))
        kinds.setdefault((compiled and sweep.fits(gradient), *kind), []).append(number)
    found: dict[int, Tensor] = {}
    for (fits, *_), numbers in kinds.items():
        some = [gradients[number] for number in numbers]
        theirs = sweep.squares(some).sqrt().unbind() if fits else torch._foreach_norm(some)
        found.update(zip(numbers, theirs, strict=True))
    return [found[number] for number in range(len(gradients))]


def finite(gradients: Sequence[Tensor], known: Sequence[Tensor]) -> bool:
    """Whether every gradient, given its norm, is finite."""
    kinds: dict[Any, list[Tensor]] = {}
    for length in known:
        kinds.setdefault((length.device, length.dtype, type(length)), []).append(length)
    if all(bool(whole(torch.stack(some)).isfinite().all()) for some in kinds.values()):
        return True
    # a sum of squares may overflow where no gradient does
    return all(bool(whole(torch.isfinite(g).all())) for g in gradients)
