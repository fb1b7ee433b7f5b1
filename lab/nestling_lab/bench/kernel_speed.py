"""The kernel, forward and backward, against fla's chunk_gated_delta_rule at one shape."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nestling.ops.momentum_gated_delta_rule import OP, cover
from nestling_lab.bench.gate import hold, relative
from nestling_lab.bench.turns import Contestant, over, spread, take_turns

SHAPE = {"batch": 8, "length": 4096, "heads": 16, "key": 64, "value": 64}
DRY = {"batch": 1, "length": 70, "heads": 2, "key": 16, "value": 16}
GATE = {"batch": 1, "length": 200, "heads": 16, "key": 64, "value": 64}
BOUND = 2e-2  # maximum relative error in bfloat16


def draw_inputs(momentum: bool, device: str, shape: dict[str, int]) -> dict[str, Tensor]:
    """Inputs of a gated delta rule: bfloat16 tokens, float32 gates.

    They follow fla's form W <- g (W - beta W k k^T) + beta v k^T: the write is beta v, and the
    erased part is decayed as well.
    """
    tokens = OP.inputs(0, **shape, momentum=momentum, dtype=torch.float32)
    tokens["v"] = tokens["w"]
    tokens["w"] = tokens["beta"][..., None] * tokens["v"]
    for name in ("q", "k", "v", "w"):
        tokens[name] = tokens[name].bfloat16()
    return {name: x.to(device).requires_grad_() for name, x in tokens.items()}


def ours(tokens: dict[str, Tensor], form: str) -> Tensor:
    """The kernel's outputs."""
    given = {name: x for name, x in tokens.items() if name != "v"}
    given["beta"] = tokens["alpha"] * tokens["beta"]
    return getattr(OP, form)(**given)[0]


def theirs(tokens: dict[str, Tensor]) -> Tensor:
    """The outputs of fla's kernel, which has no momentum."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v = (tokens[name] for name in "qkv")
    g = tokens["alpha"].log()
    return chunk_gated_delta_rule(q=q, k=k, v=v, g=g, beta=tokens["beta"], scale=1.0)[0]


def both_ways(tokens: dict[str, Tensor], form: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Run forward and backward, with the gradients of all inputs."""
    y = form(tokens)
    torch.autograd.grad(y, list(tokens.values()), torch.ones_like(y), allow_unused=True)


def errors(momentum: bool, device: str, form: str, shape: dict[str, int]) -> dict[str, float]:
    """Outputs and gradients of ``form`` against the chunk form in float64."""
    tokens = draw_inputs(momentum, device, shape)
    exact = {name: x.detach().double().requires_grad_() for name, x in tokens.items()}
    wanted = [name for name in tokens if name != "v"]
    found = []
    for inputs, how in ((tokens, form), (exact, "chunk")):
        y = ours(inputs, how)
        y.retain_grad()
        grads = torch.autograd.grad(y.float().square().sum(), [inputs[n] for n in wanted])
        found.append([y.detach(), *(grad.detach() for grad in grads)])
    return {
        f"{name} of the {form} form and in float64": relative(got.double(), want.double())
        for name, got, want in zip(["y", *wanted], *found, strict=True)
    }


def kernel_speed(momentum: bool, device: str, dry: bool) -> dict[str, Any]:
    """The speed relative to fla's kernel without momentum, and to the chunk form.

    ``ratio`` is None, with a ``reason``, if fla is missing. Raises UserError if results are wrong.
    """
    form = "triton" if cover.here(torch.device(device)) else "chunk"
    tokens = draw_inputs(momentum, device, DRY if dry else SHAPE)
    contestants = entrants(tokens, form, device)
    for contestant in contestants:
        for _ in range(1 if dry else 3):  # compiles and tunes at the shape that is timed
            contestant.work()
    names = [contestant.name for contestant in contestants]
    held = hold("kernel", errors(momentum, device, form, DRY if dry else GATE), BOUND)
    if "fla" in names and not momentum:
        apart = relative(ours(tokens, form).float(), theirs(tokens).float())
        held |= hold("kernel", {"y and fla's": apart}, BOUND)
    take_turns(contestants, rounds=2 if dry else 20, device=device, quiet=True)
    return {"form": form, "gate": held, **figures(contestants)}


def entrants(tokens: dict[str, Tensor], form: str, device: str) -> list[Contestant]:
    """``form``, then the chunk form and fla, if they are different and can run here."""
    forms: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {form: partial(ours, form=form)}
    forms.setdefault("chunk", partial(ours, form="chunk"))
    if find_spec("fla") and torch.device(device).type == "cuda":
        forms["fla"] = theirs
    return [Contestant(name=n, work=partial(both_ways, tokens, how)) for n, how in forms.items()]


def figures(contestants: list[Contestant]) -> dict[str, Any]:
    """Milliseconds of each, and the speed of the first relative to each other."""
    first, *others = contestants
    found: dict[str, Any] = {
        "milliseconds": {
            c.name: spread([1e3 * seconds for seconds in c.seconds])._asdict() for c in contestants
        },
        "ratio": None,
    }
    found |= {f"over_{other.name}": over(first, other)._asdict() for other in others}
    if first.name == "triton" and "over_fla" in found:
        found["ratio"] = found["over_fla"]["median"]
    else:
        found["reason"] = "needs flash-linear-attention, triton and a CUDA device"
    return found
