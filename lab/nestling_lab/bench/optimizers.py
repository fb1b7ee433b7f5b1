"""What a step of every optimizer costs: time and memory, on the shapes of one model."""

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

LR = 1e-6  # small, so that the weights stay what they are over many steps


class Entrant(NamedTuple):
    """An optimizer under the clock, and what it is compared with."""

    make: Callable[[nn.Module], Optimizer]
    reference: str
    limit: float | None = None  # times the reference's seconds, at most


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
        """The weights that Muon can take."""
        return [layer.weight for layer in self.maps]


def torch_muon(module: nn.Module) -> Optimizer:
    """torch's Muon of the matrices, with the same Newton-Schulz steps as ours."""
    assert isinstance(module, Shapes)
    return torch.optim.Muon(module.matrices(), lr=LR, ns_steps=5)


def torch_sgd(module: nn.Module) -> Optimizer:
    """torch's SGD with momentum, foreach."""
    return torch.optim.SGD(module.parameters(), lr=LR, momentum=0.9, foreach=True)


def torch_adamw(module: nn.Module) -> Optimizer:
    """torch's AdamW, foreach."""
    return torch.optim.AdamW(module.parameters(), lr=LR, foreach=True)


def m3(module: nn.Module) -> Optimizer:
    """M3 of the matrices, as Muon has them."""
    assert isinstance(module, Shapes)
    return M3(module.matrices(), lr=LR, ns_steps=5)


def muon_of_ours(module: nn.Module) -> Optimizer:
    """The momentum read through Newton-Schulz, of the matrices."""
    assert isinstance(module, Shapes)
    return NonlinearMomentum(module.matrices(), lr=LR, ns_steps=5)


def delta_momentum(layout: str) -> Callable[[nn.Module], Optimizer]:
    """Delta momentum in a layout."""
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
    """An optimizer over gradients that stay, and a piece of work of some steps of it."""
    optimizer = entrant.make(module)

    def work() -> None:
        for _ in range(steps):
            if isinstance(optimizer, DeltaGD):
                # what the backward pass would have handed over
                for layer in module.maps:
                    see(optimizer, layer, rows)
            optimizer.step()

    return optimizer, Contestant(name="", work=work)


def see(optimizer: DeltaGD, layer: Any, rows: int) -> None:
    """Give delta descent the inputs of a layer, as a backward pass does."""
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
    """Time ``steps`` steps a round of each optimizer, taking turns, on one model's shapes.

    Gives for each ``seconds`` of a step (median over rounds, with the fastest and slowest),
    ``over_reference`` (times those of ``reference``, in the same rounds), its ``limit`` if there is
    one, and ``bytes_per_parameter`` kept between steps. 16 steps hold one write of M3's slow
    momentum. Delta descent's seconds hold the gram matrices of ``rows`` rows for each layer.
    """
    if min(layers, width, feed_forward, rounds, steps, rows) < 1:
        raise UserError("give at least one layer, number, round, step and row")
    if unknown := set(names) - set(ENTRANTS):
        raise UserError(f"no entrant {unknown.pop()!r}; there are {', '.join(ENTRANTS)}")
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
        # speed over speed: theirs over ours, so its inverse is the time
        found[name]["over_reference"] = 1 / over(made[name], made[entrant.reference]).median
        found[name]["limit"] = entrant.limit
    return {"optimizers": found, "parameters": sum(p.numel() for p in module.parameters())}
