"""Steps each parameter group of any torch optimizer only when its level fires."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestling.core.error import UserError
from nestling.optim import states
from nestling.optim.restarts import Starts, slower_periods


def steps_of(period: float | int, tokens_per_step: int) -> int:
    """A period in tokens as whole optimizer steps, rounded up, at least one.

    >>> [steps_of(period, 512) for period in (0, 16, 512, 513, 2048)]
    [1, 1, 1, 2, 4]
    """
    return max(1, -int(-period // tokens_per_step))


class Leveled(Optimizer):
    """Writes a group once every ``period`` tokens, from the mean of the gradients since then.

    A group of ``inner`` may have ``period`` (tokens of one stream; default 0), ``name`` and
    ``share``. Periods are rounded up to whole steps. Between two firings a group's gradients move
    from ``p.grad`` into an accumulator of the optimizer, so that ``zero_grad`` of the optimizer or
    the model loses none; its weights and moments do not change, nor do its weights decay. When it
    fires, ``p.grad`` is the mean gradient, clipped to ``max_norm`` over all groups of that period.

    A group with a ``share`` (fraction) is nested: whenever the groups of the next longer period
    fire, it is reset after its own write. Its start moves towards its weights by that share, the
    weights go back to the start, and ``inner`` forgets their moments (``nestling.optim.restarts``).
    Its steps must divide those of that period.

    Source: arXiv 2512.24695, Eq 71-72, training regime R2. Deviates: C terms, where the printed sum
    has C + 1; the mean in place of the sum, so that a learning rate means the same at every period;
    the error component f is the one ``inner`` computes.
    Cost: one more gradient for each parameter of a group that does not fire every step, and one
    more weight for each parameter of a nested group.

    >>> slow, fast = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    >>> groups = [{"params": [fast]}, {"params": [slow], "period": 16, "name": "slow"}]
    >>> optimizer = Leveled(torch.optim.SGD(groups, lr=0.1), tokens_per_step=8)
    >>> for step in range(2):
    ...     optimizer.zero_grad()
    ...     (slow * (step + 1) + fast).backward()
    ...     optimizer.step()
    ...     print(optimizer.fired, round(slow.item(), 3))
    ('0',) 1.0
    ('0', 'slow') 0.85
    """

    def __init__(self, inner: Optimizer, *, tokens_per_step: int, max_norm: float | None = None):
        if tokens_per_step < 1:
            raise UserError(f"tokens_per_step is {tokens_per_step}; give at least 1")
        self.inner = inner
        self.tokens_per_step = tokens_per_step
        self.max_norm = max_norm
        # Sums over processes that hold different parameters; None: this process holds all
        self.summed: Callable[[Tensor], Tensor] | None = None
        # Groups that fired at the last step, by name, each once (by number if unnamed).
        self.fired: tuple[str, ...] = ()
        self._sums: dict[Tensor, Tensor] = {}
        self._waited: dict[int, int] = {}
        self._starts = Starts()
        # Hooks and profiling of torch's own class are set up with the groups of the inner one.
        super().__init__(inner.param_groups, inner.defaults)
        self.resets()

    # torch.optim.Optimizer assigns these three; here they are always those of the inner optimizer.
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the inner optimizer, for schedulers and logs."""
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the inner optimizer, by parameter."""
        return self.inner.state

    @state.setter
    def state(self, state: Any) -> None:
        if state:
            self.inner.state = state

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy: the inner optimizer, the collected gradients and the step counts.

        Registered hooks are left out, as in torch's own optimizers.
        """
        names = ("inner", "tokens_per_step", "max_norm", "fired", "_sums", "_waited", "_starts")
        return {name: getattr(self, name) for name in names} | {
            "defaults": self.defaults,
            "summed": None,
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer."""
        if not any(param_group is group for group in self.inner.param_groups):
            self.inner.add_param_group(param_group)

    def periods(self) -> list[int]:
        """The steps between two firings, for each group."""
        return [steps_of(g.get("period", 0), self.tokens_per_step) for g in self.param_groups]

    def next_firing(self) -> list[bool]:
        """Whether each group fires at the coming step."""
        return [self._waited.get(i, 0) + 1 >= steps for i, steps in enumerate(self.periods())]

    def resets(self) -> list[float | int | None]:
        """The period (tokens) whose writes reset each group; None: it is not nested."""
        return slower_periods(self.param_groups, self.periods())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Count one step; write the groups that fire, keep the gradients of the others."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check(self._sums, self._starts.values)
        states.check_gradients(self.param_groups)
        firing, resets = self.next_firing(), self.resets()
        for group, period in zip(self.param_groups, resets, strict=True):
            if period is not None:
                self._starts.keep(group["params"])
        for number, (group, fires) in enumerate(zip(self.param_groups, firing, strict=True)):
            self._waited[number] = self._waited.get(number, 0) + 1
            self._collect(group["params"], self._waited[number], fires)
        for period in sorted({p for p, fires in zip(self.periods(), firing, strict=True) if fires}):
            self._clip(period)
        self.inner.step()
        for number, fires in enumerate(firing):
            if fires:
                self._waited[number] = 0
        self._restart(firing, resets)
        names = [str(group.get("name", i)) for i, group in enumerate(self.param_groups)]
        fired = (name for name, fires in zip(names, firing, strict=True) if fires)
        self.fired = tuple(dict.fromkeys(fired))
        return loss

    def _check(self, sums: Mapping[Tensor, Tensor], begun: Mapping[Tensor, Tensor]) -> None:
        """Raise UserError for collected gradients or starts whose size is not the parameter's."""
        states.check_waiting("the gathered gradient", self.param_groups, sums.items())
        states.check_waiting("the start", self.param_groups, begun.items())

    def _restart(self, firing: list[bool], resets: list[float | int | None]) -> None:
        """Reset the groups whose next slower level has been written."""
        pairs = zip(self.param_groups, firing, strict=True)
        written = {group.get("period", 0) for group, fires in pairs if fires}
        for group, period in zip(self.param_groups, resets, strict=True):
            if period is not None and period in written:
                self._starts.restart(group["params"], group["share"], self.inner)

    def _collect(self, parameters: Iterable[Tensor], steps: int, fires: bool) -> None:
        """Move gradients into the sums; when the group fires, set them to the mean instead."""
        for parameter in parameters:
            total = self._sums.pop(parameter, None)
            if parameter.grad is not None:
                gradient = parameter.grad
                wide = torch.promote_types(gradient.dtype, torch.float32)
                waiting = not fires or total is not None
                gradient = gradient.to(wide) if waiting else gradient
                total = gradient if total is None else total.add_(gradient)
            parameter.grad = None
            if total is None:
                continue
            if fires:
                mean = total if steps == 1 else total / steps
                parameter.grad = mean.to(parameter.dtype)
            else:
                self._sums[parameter] = total

    def _clip(self, period: int) -> None:
        if self.max_norm is None:
            return
        groups = zip(self.param_groups, self.periods(), strict=True)
        chosen = [p for group, steps in groups if steps == period for p in group["params"]]
        gradients = [p.grad for p in chosen if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.summed is not None:
            norm = self.summed(norm.square()).sqrt()
        torch.nn.utils.clip_grads_with_norm_(chosen, self.max_norm, norm)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear ``p.grad``; the gradients collected for slower levels stay."""
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly, at any step.

        The inner state, the collected gradients, the steps since each firing and the starts of
        nested levels. Hooks registered here get this dict; hooks of the inner optimizer get theirs.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        order = [p for group in self.param_groups for p in group["params"]]
        sums = {str(i): self._sums[p] for i, p in enumerate(order) if p in self._sums}
        waited = [self._waited.get(i, 0) for i in range(len(self.param_groups))]
        begun = self._starts.values
        starts = {str(i): begun[p] for i, p in enumerate(order) if p in begun}
        found = {
            "inner": self.inner.state_dict(),
            "sums": sums,
            "waited": waited,
            "starts": starts,
        }
        return _hooked(self._optimizer_state_dict_post_hooks, self, found)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` returned, collected gradients included."""
        hooks = self._optimizer_load_state_dict_pre_hooks
        state_dict = _hooked(hooks, self, dict(state_dict))
        order = [p for group in self.param_groups for p in group["params"]]
        sums = _by_parameter(order, state_dict["sums"])
        begun = _by_parameter(order, state_dict.get("starts", {}))
        self._check(sums, begun)
        self.inner.load_state_dict(state_dict["inner"])
        self._sums = sums
        self._starts = Starts()
        self._starts.values = begun
        self._waited = dict(enumerate(state_dict["waited"]))
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)


def _by_parameter(order: list[Tensor], saved: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    """Tensors that were saved by parameter number, by parameter and on its device."""
    found = {}
    for index, x in saved.items():
        if int(index) >= len(order):
            raise UserError(
                f"the state has more than {len(order)} parameters; load it into an optimizer of "
                "the same model"
            )
        parameter = order[int(index)]
        found[parameter] = x.to(parameter.device, copy=True)
    return found


def _hooked(
    hooks: Mapping[int, Callable[..., Any]], optimizer: Optimizer, state_dict: dict[str, Any]
) -> dict[str, Any]:
    """The dict after the hooks; each may change it or return another."""
    for hook in hooks.values():
        given = hook(optimizer, state_dict)
        state_dict = state_dict if given is None else given
    return state_dict
