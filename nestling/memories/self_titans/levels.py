"""The levels of the self-modifying Titans."""

from typing import Any

from nestling.core.level import Level
from nestling.core.transfer import LEARNED, READ, Transfer, added_to
from nestling.memories.self_titans.options import SelfTitansOptions

# what a memory gives to all others, the output memory among them
GIVES = {
    "k": ("context generation", "the keys of all memories"),
    "v": ("context generation", "the values that all memories make targets of"),
    "eta": ("direct", "the rate of all memories' writes"),
    "alpha": ("direct", "what all memories keep"),
    "q": ("direct", "the query that reads it"),
}


def given(name: str) -> tuple[Transfer, ...]:
    """What the memory of this name hands to the output memory, or that one to the layer."""
    if name == "memory":
        return (READ,)
    kind, what = GIVES[name]
    return (Transfer(kind=kind, partner="M_memory", what=what),)


def levels_of(config: SelfTitansOptions, names: list[str], size: int) -> list[Level]:
    """Every memory, and the momentum that goes before it.

    Running weights and momenta are written at every token. What is read of the output memory
    is the running weight; of the others it is the anchor, which moves once a period. ``size``:
    parameters of each memory.
    """
    if not config.writes:
        return []
    objective = {"l2": "|M(k) - v_hat|^2 / 2", "dot": "-<M(k), v_hat>"}[config.objective]
    rule = {"dgd": "delta gradient descent with decay", "gd": "gradient descent with decay"}
    found = []
    for name in names:
        period = config.period if name == "memory" else config.projection_period
        running = name == "memory" and config.read != "anchor"
        shared: dict[str, Any] = {
            "parameters": size,
            "per_sequence": True,
            "objective": objective,
            "context": f"pairs (k, v_hat = M_{name}(v)) that the memories make of each token",
        }
        momentum = f"momentum of M_{name}"
        if config.momentum:
            found.append(
                Level(
                    name=momentum,
                    period=1,
                    rule="normalised momentum",
                    transfer=(added_to(f"M_{name}"),),
                    **shared,
                )
            )
        found.append(
            Level(
                name=f"M_{name}",
                period=1 if running else period,
                rule=f"{rule[config.rule]}, gradients at the state of every {period} tokens",
                transfer=(*given(name), LEARNED),
                depends_on=(momentum,) if config.momentum else (),
                **shared,
            )
        )
    return found
