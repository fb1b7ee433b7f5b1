"""The cost of a step of every optimizer, in time and memory, on the shapes of one model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestling.core.error import UserError
from nestling.optim import (
    M3,
    DeepMomentum,
    DeltaGD,
    DeltaMomentum,
    ElementwiseMemory,
    FeatureMomentum,
    NonlinearMomentum,
)
from nestling_lab.bench.turns import Contestant, over, say, spread, take_turns

LR = 1e-6  # small, so that the weights hardly change over many steps


class Entrant(NamedTuple):
    """An optimizer to time, and the one it is compared with."""

    make: Callable[[nn.Module], Optimizer]
    reference: str
    limit: float | None = None  # maximum time relative to the reference


class Shapes(nn.Module):
    """The weights of ``layers`` blocks (four projections, a gated feed-forward, norms)."""

    def __init__(self, layers: int, width: int, feed_forward: int):
        super().__init__()
        shapes = [(width, width)] * 4 + [(feed_forward, width)] * 2 + [(width, feed_forward)]
        self.maps = nn.ModuleList(
            nn.Linear(columns, rows, bias=False) for _ in range(layers) for rows, columns in shapes
        )
        self.norms = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in range(2 * layers))

    def matrices(self) -> list[Any]:
        """The weights that Muon can update."""
        return [layer.weight for layer in self.maps]


def torch_muon(module: nn.Module) -> Optimizer:
    """torch's Muon on the matrices, with the same Newton-Schulz steps as ours."""
    assert isinstance(module, Shapes)
    return torch.optim.Muon(module.matrices(), lr=LR, ns_steps=5)


def torch_sgd(module: nn.Module) -> Optimizer:
    """torch's SGD with momentum, foreach."""
    return torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9, foreach=True)


def torch_adamw(module: nn.Module) -> Optimizer:
    """torch's AdamW, foreach."""
    return torch.optim.AdamW(module.parameters(), lr=LR, foreach=True)


def m3(module: nn.Module) -> Optimizer:
    """M3 on the matrices, like Muon."""
    assert isinstance(module, Shapes)
    return M3(module.matrices(), lr=LR, ns_steps=5)


def muon_of_ours(module: nn.Module) -> Optimizer:
    """Our momentum with Newton-Schulz, on the matrices."""
    assert isinstance(module, Shapes)
    return NonlinearMomentum(module.matrices(), lr=LR, ns_steps=5)


def delta_momentum(layout: str) -> Callable[[nn.Module], Optimizer]:
    """Delta momentum with a layout."""
    return lambda module: DeltaMomentum(module.parameters(), lr=LR, layout=layout)


MUON, SGD, ADAMW = "torch Muon (matrices)", "torch SGD, momentum", "torch AdamW"
ENTRANTS: dict[str, Entrant] = {
    MUON: Entrant(torch_muon, MUON),
    "m3 (matrices)": Entrant(m3, MUON, 1.35),
    "nonlinear_momentum (matrices)": Entrant(muon_of_ours, MUON),
    SGD: Entrant(torch_sgd, SGD),
    "delta_momentum, scalar": Entrant(delta_momentum("scalar"), SGD, 1.3),
    "delta_momentum, row": Entrant(delta_momentum("row"), SGD, 2.0),
    "delta_momentum, matrix": Entrant(delta_momentum("matrix"), SGD),
    "feature_momentum": Entrant(lambda module: FeatureMomentum(module.parameters(), lr=LR), SGD),
    "deep_momentum": Entrant(lambda module: DeepMomentum(module.parameters(), lr=LR), SGD),
    "delta_gd": Entrant(lambda module: DeltaGD(module, lr=LR), SGD),
    ADAMW: Entrant(torch_adamw, ADAMW),
    "elementwise_memory": Entrant(
        lambda module: ElementwiseMemory(module.parameters(), lr=LR), ADAMW
    ),
}


def bytes_of(optimizer: Optimizer) -> int:
    """Bytes of the tensors an optimizer keeps between steps."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def contestant(entrant: Entrant, module: Shapes, steps: int, rows: int) -> tuple[Any, Contestant]:
    """An optimizer with fixed gradients, and a contestant that does some steps of it."""
    optimizer = entrant.make(module)

    def work() -> None:
        for _ in range(steps):
            if isinstance(optimizer, DeltaGD):
                # as the backward pass would
                for layer in module.maps:
                    see(optimizer, layer, rows)
            optimizer.step()

    return optimizer, Contestant(name="", work=work)


def see(optimizer: DeltaGD, layer: Any, rows: int) -> None:
    """Give DeltaGD the inputs of a layer, like a backward pass."""
    from nestling.optim.captured import Context

    x = torch.ones(1, 1, 1, device=layer.weight.device).expand(1, rows, layer.in_features)
    context = optimizer._capture.contexts.setdefault(layer.weight, Context())
    context.add_rows(x.contiguous())


def optimizers(
    *,
    layers: int = 12,
    width: int = 512,
    feed_forward: int = 1376,
    names: Sequence[str] = tuple(ENTRANTS),
    rounds: int = 3,
    steps: int = 16,
    rows: int = 1024,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Time each optimizer on the shapes of one model, ``steps`` steps per round, taking turns.

    For each: ``seconds`` of a step (median over rounds, with the fastest and slowest),
    ``over_reference`` (relative to ``reference``, in the same rounds), its ``limit`` if there is
    one, and ``bytes_per_parameter`` of state. 16 steps include one write of M3's slow momentum. The
    time of DeltaGD includes the Gram matrices of ``rows`` rows for each layer.
    """
    if min(layers, width, feed_forward, rounds, steps, rows) < 1:
        raise UserError("layers, widths, rounds, steps and rows must be at least 1")
    if unknown := set(names) - set(ENTRANTS):
        raise UserError(f"unknown entrant {unknown.pop()!r}; choose from {', '.join(ENTRANTS)}")
    torch.manual_seed(0)
    module = Shapes(layers, width, feed_forward).to(device)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    made: dict[str, Contestant] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        optimizer, made[name] = contestant(ENTRANTS[name], module, steps, rows)
        made[name].name = name
        made[name].work()
        taken = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        found[name] = {"bytes_per_parameter": bytes_of(optimizer) / taken, "parameters": taken}
        say(f"{name}: ready", quiet)
    take_turns(list(made.values()), rounds=rounds, device=device, quiet=quiet)
    for name, entrant in ENTRANTS.items():
        if name not in found or entrant.reference not in made:
            continue
        seconds = spread([value / steps for value in made[name].seconds])
        found[name] |= {"seconds": seconds.median, "fastest": seconds.lowest}
        found[name] |= {"slowest": seconds.highest, "reference": entrant.reference}
        # a ratio of speeds, theirs over ours: the inverse ratio of times
        found[name]["over_reference"] = 1 / over(made[name], made[entrant.reference]).median
        found[name]["limit"] = entrant.limit
    return {"optimizers": found, "parameters": sum(p.numel() for p in module.parameters())}
