"""Times the forms of the kernel, and single memories against third-party ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.memories import MEMORIES
from nestling.ops.momentum_gated_delta_rule import OP
from nestling_lab.bench import peers
from nestling_lab.bench.gate import hold, relative
from nestling_lab.bench.turns import Contestant, over, spread, take_turns

Tokens = dict[str, Tensor]
Form = Callable[[Tokens], Tensor]


def forms_of(chunks: Sequence[int], momentum: bool, others: bool) -> dict[str, Form]:
    """The forms of the kernel by name, each a function from tokens to outputs [B, T, H, V]."""
    forms: dict[str, Form] = {"step": lambda tokens: OP.sequential(tokens)[0]}
    for size in chunks:
        forms[f"chunk {size}"] = lambda tokens, size=size: OP.chunk(**tokens, chunk_size=size)[0]
    if others and not momentum:
        forms["peer:transformers"] = transformers_form
    return forms


def transformers_form(tokens: Tokens) -> Tensor:
    """The torch gated delta rule of Qwen3-Next in transformers, on the same tokens.

    It erases after the decay, and writes beta v.
    """
    rule = peers.chunk_gated_delta_rule()
    alpha, q = tokens["alpha"], tokens["q"]
    beta = tokens["beta"] / alpha
    y, _ = rule(
        q * q.shape[-1] ** 0.5,
        tokens["k"],
        tokens["w"] / beta[..., None],
        g=alpha.log(),
        beta=beta,
        chunk_size=64,
    )
    return y


def with_gradients(form: Form, tokens: Tokens) -> tuple[Tensor, list[Tensor]]:
    """The outputs, and the gradients of all token tensors for a fixed weighting of the outputs."""
    leaves = {name: x.detach().requires_grad_() for name, x in tokens.items()}
    y = form(leaves)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    return y.detach(), list(torch.autograd.grad((y * weights).sum(), list(leaves.values())))


def errors(form: Form, truth: Form, tokens: Tokens) -> dict[str, float]:
    """The relative errors of outputs, and of all gradients together, against the folded step."""
    (y, grads), (expected, truths) = with_gradients(form, tokens), with_gradients(truth, tokens)
    flat = [torch.cat([g.flatten() for g in part]) for part in (grads, truths)]
    return {"outputs and those of the step": relative(y, expected)} | {
        "gradients and those of the step": relative(*flat)
    }


def ops(
    *,
    batch: int = 4,
    length: int = 512,
    heads: int = 4,
    width: int = 64,
    chunks: Sequence[int] = (16, 32, 64, 128),
    others: bool = False,
    rounds: int = 5,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Tokens per second of each form of the kernel, forward and backward.

    Measured with and without momentum. Before it is timed, each form must match the folded step at
    100 tokens, in outputs and gradients.
    """
    if min(batch, length, heads, width, rounds, *chunks) < 1:
        raise UserError("rows, tokens, heads, widths, chunks and rounds must be at least 1")
    found: dict[str, Any] = {}
    for label, momentum in (("momentum", True), ("no momentum", False)):
        shape = {"heads": heads, "key": width, "value": width, "momentum": momentum}

        def draw(rows: int, tokens: int, shape=shape) -> Tokens:
            drawn = OP.inputs(0, batch=rows, length=tokens, dtype=torch.float32, **shape)
            return {name: x.to(device) for name, x in drawn.items()}

        forms = forms_of(chunks, momentum, others)
        small, large = draw(1, 100), draw(batch, length)
        gates = {name: hold(name, errors(f, forms["step"], small)) for name, f in forms.items()}
        entrants = {
            name: Contestant(name=name, work=lambda f=form, x=large: with_gradients(f, x))
            for name, form in forms.items()
        }
        for entrant in entrants.values():
            entrant.work()
        take_turns(list(entrants.values()), rounds=rounds, device=device, quiet=quiet)
        found[label] = rows = {}
        for name, entrant in entrants.items():
            speed = spread([batch * length / seconds for seconds in entrant.seconds])
            rows[name] = {
                "tokens_per_second": speed.median,
                "slowest": speed.lowest,
                "fastest": speed.highest,
                "over_step": over(entrant, entrants["step"]).median,
                "gate": gates[name],
            }
    return {"kernel": found}


def layer_work(layer: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """The forward and backward pass of a layer, with gradients of its parameters and input."""

    def work() -> None:
        leaf = x.detach().requires_grad_()
        layer(leaf).square().mean().backward()

    return work


def titans(
    *, rows: int = 2, length: int = 1024, hidden_size: int = 384, period: int = 64,
    rounds: int = 3, device: str = "cpu", quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Our long-term memory of Titans against that of titans-pytorch, forward and backward.

    The defaults are the shape in the README of that package: one head, a two-layer network with
    four times the width, momentum, and weights written every ``period`` tokens. Ours writes at
    every token. Its gate compares reading at once with reading in two pieces.
    """
    theirs: Any = peers.titans_memory(hidden_size, period).to(device)
    memory = MEMORIES.load("titans")
    ours = memory(memory.Config(period=period, persistent=0), hidden_size=hidden_size, num_heads=1)
    ours.init_weights(torch.Generator().manual_seed(0))
    ours.to(device)
    x = torch.randn(rows, length, hidden_size, generator=torch.Generator().manual_seed(0))
    x = x.to(device)
    with torch.no_grad():
        whole = ours(x[:, :200])[0]
        first, state = ours(x[:, :70])
        error = relative(torch.cat((first, ours(x[:, 70:200], state)[0]), dim=1), whole)
    gate = hold("titans", {"reading in two pieces and at once": error})
    entrants = [
        Contestant(name="titans", work=layer_work(lambda x: ours(x)[0], x)),
        Contestant(name="peer:titans-pytorch", work=layer_work(lambda x: theirs(x)[0], x)),
    ]
    for entrant in entrants:
        entrant.work()
    take_turns(entrants, rounds=rounds, device=device, quiet=quiet)
    ratio = over(*entrants)
    speeds = {
        entrant.name: spread([rows * length / seconds for seconds in entrant.seconds]).median
        for entrant in entrants
    }
    return {
        "period": period,
        "over_peer": ratio.median,
        "over_lowest": ratio.lowest,
        "over_highest": ratio.highest,
        "tokens_per_second": speeds,
        "gate": gate,
    }
