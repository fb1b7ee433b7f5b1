"""The levels of the self-modifying Titans."""

from typing import Any

from nestling.core.level import Level
from nestling.core.transfer import LEARNED, READ, Transfer, added_to
from nestling.memories.self_titans.options import SelfTitansOptions

RULES = {"dgd": "delta gradient descent", "gd": "gradient descent"}
STEPS = {"energy": "", "proximal": ", proximal steps", "raw": ", steps as they are"}

# what a memory gives to all others, the output memory among them
GIVES = {
    "k": ("context generation", "the keys of all memories"),
    "v": ("context generation", "the values from which all memories compute targets"),
    "eta": ("direct", "the rate of all memories' writes"),
    "alpha": ("direct", "how much all memories retain"),
    "q": ("direct", "the query that reads it"),
}


def handed_over(config: SelfTitansOptions, name: str) -> tuple[Transfer, ...]:
    """The transfers from this memory to the output memory, or from that one to the layer."""
    if name == "memory":
        return (READ,)
    kind, what = GIVES[name]
    if config.values == "shared":
        what = {"k": "its keys", "v": "the values of all memories"}.get(name, what)
    return (Transfer(kind=kind, partner="M_memory", what=what),)


def levels_of(config: SelfTitansOptions, names: list[str], size: int) -> list[Level]:
    """Every memory, each after its momentum.

    Weights and momenta are written at every token. Reads of the output memory use its current
    weights; reads of the others use the anchor, which moves once per period. ``size``: parameters
    per memory.
    """
    if not config.writes:
        return []
    found = []
    output, others = config.periods()
    for name in names:
        period = output if name == "memory" else others
        running = name == "memory" and config.read != "anchor"
        shared: dict[str, Any] = {
            "parameters": size,
            "per_sequence": True,
            "objective": objective_of(config, name),
            "context": context_of(config, name),
        }
        momentum = f"momentum of M_{name}"
        if config.momentum:
            found.append(
                Level(
                    name=momentum,
                    period=1,
                    rule="normalised momentum" if config.normalised_momentum else "momentum",
                    transfer=(added_to(f"M_{name}"),),
                    **shared,
                )
            )
        found.append(
            Level(
                name=f"M_{name}",
                period=1 if running else period,
                rule=rule_of(config, name, period),
                transfer=(*handed_over(config, name), LEARNED),
                depends_on=(momentum,) if config.momentum else (),
                **shared,
            )
        )
    return found


def objective_of(config: SelfTitansOptions, name: str) -> str:
    """What a write minimises; a target that is not detached gets a gradient, too."""
    key, target = "k", "v_hat" if config.detach_target else "M(v)"
    if config.values == "shared":
        key, target = key_of(name), "v"
    if config.objective == "dot":
        return f"-<M({key}), {target}>"
    return f"|M({key}) - {target}|^2 / 2"


def key_of(name: str) -> str:
    """The key of a memory if values are shared (Eq 80-81)."""
    return "k" if name == "memory" else name


def rule_of(config: SelfTitansOptions, name: str, period: int) -> str:
    """The rule that writes a memory, in words."""
    decay = " with decay" if config.decay else ", no decay"
    rates = ", rates of every row" if config.rates == "channel" else ""
    at = f", gradients at the state of every {period} tokens"
    cut = ""
    if name != "memory" and config.projection_clip is not None:
        cut = f" and no longer than {config.projection_clip:g}"
    return RULES[config.rule] + decay + rates + STEPS[config.step] + at + cut


def context_of(config: SelfTitansOptions, name: str) -> str:
    """The context that a memory learns from, in words."""
    if config.values == "shared":
        return f"pairs ({key_of(name)}, v) of each token"
    target = f"v_hat = M_{name}(v)" if config.detach_target else f"M_{name}(v)"
    adaptive = config.adaptive()
    if "k" in adaptive and "v" in adaptive:
        return f"pairs (k, {target}) that the memories compute from each token"
    made = [part for part in ("k", "v") if part in adaptive]
    by = f"{made[0]} by a memory, the other by the projection" if made else "by the projection"
    return f"pairs (k, {target}) made of each token, {by}"
