"""Delta gradient descent: every layer regresses its output onto minus the gradient."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.native import plain
from nestling.optim.base import GradientMemory, at_least, check_choice
from nestling.optim.captured import LAYERS, Capture, Context
from nestling.optim.states import name_of
from nestling.rules import GradientRecord
from nestling.rules.dgd import dgd_rows

FORMS = ("exact", "explicit", "cr")
REDUCTIONS = ("mean", "sum")


class DeltaGD(GradientMemory):
    """Gradient descent with a decay along the layer's own inputs (DGD).

        W <- argmin over V of <V, G> + s E|V x|^2 / 2 + |V - W|^2 / (2 lr)
           = (W - lr G)(I + lr s E x x^T)^-1

    Hooks on ``module`` record, from ``zero_grad`` to ``step``, the inputs of every call that gets a
    gradient of its Linear, Conv1d to Conv3d and Embedding layers, as one q x q Gram matrix each.
    For an embedding they count how often each row was looked up; a tied weight has both. All other
    parameters (biases, norms, raw ones) take a step of gradient descent. ``params``: parameters or
    groups to train, by default all of the module's. ``close()`` removes the hooks.

    ``form``: "exact" as above; "explicit": W - lr (G + s W E x x^T), stable while lr s times the
    largest eigenvalue of E x x^T is below 2; "cr": W (I - E x x^T) - lr G, the camera-ready
    version, for comparison only. ``decay_scale`` is s. ``reduction`` is that of the loss: "mean"
    over the n rows a layer saw (E is their mean), or "sum" (E is their sum).

    It converges to a minimum of L + s E|W x|^2 / 2, summed over the layers, and not of L.
    Multiplying the loss by c multiplies L alone, so the steps do not simply scale.

    Source: arXiv 2512.24695, Eq 56-57, 112-121; CR 27-29 is form="cr". Deviates: exact for inputs
    of any length, where Eq 57 assumes length one and Eq 119, 120 drop a square; the signs follow
    the derivation in appendix C, which Eq 113, 114 contradict.
    Cost: O(n q^2 + q^3 + p q^2) time per layer, and q^2 numbers per layer between ``zero_grad`` and
    ``step``.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.fill_(1.0)
    >>> optimizer = DeltaGD(layer, lr=1.0)
    >>> (0 * layer(torch.tensor([[1.0, 0.0]]))).sum().backward()
    >>> optimizer.step()  # zero gradient: the weights along the input are halved, the rest stays
    >>> layer.weight.data
    tensor([[0.5000, 1.0000]])
    """

    name = "delta_gd"
    default_lr: ClassVar[float] = 0.3
    hears_inputs: ClassVar[bool] = True

    def __init__(
        self,
        module: Any,
        lr: float | int = 1e-1,
        *,
        params: Iterable[Any] | None = None,
        form: str = "exact",
        decay_scale: float | int = 1.0,
        reduction: str = "mean",
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        if not isinstance(module, nn.Module):
            raise TypeError(
                "DeltaGD takes a module, not parameters, because it needs the inputs of layers; "
                "write DeltaGD(model, lr=...), with params=... for groups"
            )
        check_choice("form", form, FORMS)
        check_choice("reduction", reduction, REDUCTIONS)
        at_least(0, decay_scale=decay_scale)
        super().__init__(
            module.parameters() if params is None else params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options={"form": form, "decay_scale": decay_scale, "reduction": reduction},
        )
        self.layers = sum(isinstance(layer, LAYERS) for layer in module.modules())
        self._capture = Capture(module)
        self.register_state_dict_post_hook(_with_contexts)

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to be copied: a copy would have no hooks on the layers of its weights."""
        raise UserError(
            "DeltaGD has hooks on the layers of its module and cannot be copied; create one for "
            "the copied module and use load_state_dict"
        )

    def close(self) -> None:
        """Remove the hooks from the module; further steps would be plain gradient descent."""
        self._capture.close()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and the inputs recorded with them."""
        for group in self.param_groups:
            for parameter in group["params"]:
                # without a gradient: a slow level has collected it and still needs the inputs
                if parameter.grad is not None:
                    self._capture.contexts.pop(parameter, None)
        super().zero_grad(set_to_none)

    def _contexts(self) -> dict[int, dict[str, Any]]:
        """The recorded inputs of slow levels that have not fired yet."""
        return {
            index: self._capture.contexts[p].state_dict()
            for index, p in enumerate(self._order())
            if p in self._capture.contexts and p.grad is None
        }

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        super()._check_loaded(state_dict)
        if "contexts" not in state_dict:
            raise UserError("this is the state of another optimizer: DeltaGD needs contexts")
        order = self._order()
        for index, saved in state_dict["contexts"].items():
            if int(index) >= len(order):
                raise UserError(
                    f"the state has more than {len(order)} parameters; load it for the same model"
                )
            parameter = order[int(index)]
            context = Context.of(saved, parameter.device)
            context.check(name_of(self.param_groups, parameter), parameter)

    def _check_states(self, work: list[tuple[dict[str, Any], list[Tensor]]]) -> None:
        super()._check_states(work)
        for _, parameters in work:
            for parameter in parameters:
                if parameter.ndim > 1 and parameter in self._capture.contexts:
                    context = self._capture.contexts[parameter]
                    context.check(name_of(self.param_groups, parameter), parameter)

    def _take_up(self, state_dict: dict[str, Any]) -> None:
        super()._take_up(state_dict)
        order = self._order()
        for index, saved in state_dict["contexts"].items():
            parameter = order[int(index)]
            self._capture.contexts[parameter] = Context.of(saved, parameter.device)

    def _order(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @classmethod
    def of_module(
        cls, module: nn.Module, groups: Any, *, lr: float | int, betas: Any = None
    ) -> "DeltaGD":
        """Build for groups of a module's parameters; ``betas`` are AdamW's and ignored."""
        return cls(module, params=groups, lr=lr)

    def unread(self, group: dict[str, Any]) -> dict[str, str]:
        """``decay_scale`` has no effect in the form without it."""
        return {"decay_scale": "form='cr'"} if group["form"] == "cr" else {}

    def records(self, group: dict[str, Any]) -> tuple[GradientRecord, ...]:
        """None: only the weights themselves are written; there is no other state."""
        return ()

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if not plain(parameter):
            raise UserError("DeltaGD needs unsharded weights and inputs; use it without sharding")
        return {}

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            context = self._capture.contexts.pop(parameter, None)
            if context is None:
                parameter.add_(gradient, alpha=-float(group["lr"]))
            else:
                write(parameter, gradient, context, group)


def write(parameter: Tensor, gradient: Tensor, context: Context, group: dict[str, Any]) -> None:
    """One step of a weight whose inputs were recorded."""
    eta, scale = float(group["lr"]), group["decay_scale"]
    mean = group["reduction"] == "mean"
    gram, counts = context.gram, context.counts
    groups = 1 if gram is None else gram.shape[0]
    wide = gradient.dtype
    W = parameter.to(wide).reshape(groups, parameter.shape[0] // groups, -1)
    G = gradient.reshape(W.shape)
    if gram is not None:
        gram = gram.to(wide) / (context.rows if mean else 1)
    if counts is not None:
        counts = counts.to(wide)[:, None] / (context.looks if mean else 1)
    if group["form"] == "exact":
        new = exact(W, G, gram, counts, eta, scale)
    else:
        decay = torch.zeros_like(W)
        decay = decay if gram is None else decay + W @ gram
        decay = decay if counts is None else decay + counts * W
        new = W - eta * G - (1.0 if group["form"] == "cr" else eta * scale) * decay
    parameter.copy_(new.view_as(parameter))


def exact(
    W: Tensor,
    G: Tensor,
    gram: Tensor | None,
    counts: Tensor | None,
    eta: float,
    scale: float | int,
) -> Tensor:
    """The proximal step of a weight used in products, in look-ups, or in both."""
    if gram is not None and counts is None:
        return dgd_rows(W, G, gram, eta, scale)
    assert counts is not None
    below = 1 + eta * scale * counts
    if gram is None:
        return (W - eta * G) / below
    # (1 + eta s counts) V + eta s V gram = W - eta G is diagonal in the eigenvectors of gram
    values, vectors = torch.linalg.eigh(gram)
    turned = (W - eta * G) @ vectors
    return (turned / (below + eta * scale * values[:, None, :])) @ vectors.mT


def _with_contexts(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """torch's state dict, with the recorded inputs of slow levels that have not fired yet."""
    return state_dict | {"contexts": optimizer._contexts()}
