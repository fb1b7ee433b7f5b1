"""Every option changes a result or is refused, alone and with every switch."""

import dataclasses
import functools
import zlib
from itertools import permutations
from typing import Any

import checks
import pytest
import torch
from tiny_memories import draw

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.memories import MEMORIES
from nestling.models import create
from nestling.models.config import memory_config

WIDTH, HEADS, TOKENS = 16, 2, 7

# base options of each memory, to fit the few tokens read
CONTEXT = {"objective": "local", "periods": (2, 4), "intermediate_size": 6}
TITANS = {"period": 4, "persistent": 2}
BASE: dict[str, dict[str, Any]] = {
    "self_titans": {"period": 4, "projection_period": 4},
    "ttt_linear": {"mini_batch": 4},
    "ttt_mlp": {"mini_batch": 4},
    "titans": TITANS,
    "titans_mac": TITANS,
    "titans_mag": TITANS | {"window": 6},
    "titans_mal": TITANS | {"window": 6},
    "dla": {"period": 4},
    "omega": {"period": 4, "window": 3},
    "atlas": {"period": 4, "window": 3},
    "memora": {"period": 4},
    "mamba": {"state_size": 3},
    "mamba2": {"head_size": 8, "state_size": 4},
    "mlp": {"intermediate_size": 12},
    "cms": {"periods": (4, 8), "intermediate_size": 6},
    "cms_context": CONTEXT,
    "cms_nested": CONTEXT,
    "cms_headwise": CONTEXT,
}
# other values of options, by name or for one memory; numbers are halved otherwise
OTHERS: dict[str, tuple] = {
    "adaptive_q": (True,),
    "allow_neg_eigval": (True,),
    "backbone": ("transformer",),
    "clip": (0.01,),
    "convolution": (2,),
    "decay_rank": (3,),
    "decay_to": ("zero",),
    "degree": (2,),
    "erase": ("whole",),
    "eta_max": (0.8,),
    "expansion": (2,),
    "form": ("paper",),
    "gate_rank": (3,),
    "groups": (2,),
    "half_life": ((8.0, 32.0),),
    "head_size": (4,),
    "heads": (4,),
    "initial_decay": ((2.0, 9.0),),
    "initial_steps": ((0.01, 0.5),),
    "inner_size": (24,),
    "intermediate_size": (10,),
    "layers": (1, 3),
    "loss": ("l2",),
    "matrices": (1,),
    "memory_hidden": (5,),
    "network": ("matrix",),
    "newton_schulz": (3,),
    "num_kv_heads": (1,),
    "objective": ("dot",),
    "period": (2,),
    "periods": ((3, 6),),
    "persistent": (3,),
    "projection_clip": (0.05,),
    "projection_period": (2,),
    "rate_rank": (3,),
    "rates": ("channel",),
    "read": ("pre", "anchor"),
    "regime": (),  # there is one
    "rule": ("gd",),
    "shares": ((0.25,),),
    "smallest_step": (0.05,),
    "step": ("proximal", "raw"),
    "step_rank": (2,),
    "theta_max": (0.8,),
    "through": ("full",),
    "trust": (0.01,),
    "values": ("shared",),
    "window": (2,),
}
# options that may have no effect with another one, and why
EXCEPT = {
    # document starts and the count in the state depend on the periods; presets set them
    ("self_titans", "period", "writes"),
    ("self_titans", "projection_period", "writes"),
    ("self_titans", "projection_clip", "writes"),
    # families are made by it, and may be frozen all the same
    ("self_titans", "values", "writes"),
}
CMS_OTHERS = {"rule": ("dgd", "m3"), "objective": ("ntp", "teach")}


def others(name: str, field: dataclasses.Field) -> tuple:
    """Other values of an option."""
    if name.startswith("cms_") and field.name in CMS_OTHERS:
        return CMS_OTHERS[field.name]
    if field.name in OTHERS:
        return OTHERS[field.name]
    if isinstance(field.default, bool):
        return (not field.default,)
    assert isinstance(field.default, int | float), f"{name}.{field.name}: say another value"
    return (type(field.default)(field.default / 2),)


def is_switch(value: Any) -> bool:
    """Whether an option with this value is one that others may depend on."""
    return isinstance(value, bool | str)


def result(name: str, options: dict[str, Any]) -> list[torch.Tensor] | None:
    """Outputs, the final state, and gradients; None if the options are refused."""
    kind = MEMORIES.load(name)
    if options.get("objective") in ("ntp", "teach"):
        return result_of_model(name, options)
    try:
        config = memory_config(name, {**BASE.get(name, {}), **options})
        memory = kind(config, hidden_size=WIDTH, num_heads=HEADS).double()
    except UserError:
        return None
    memory.init_weights(torch.Generator().manual_seed(0))
    # away from the initial values, many of which are zero
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in memory.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    outer = "through" in {field.name for field in dataclasses.fields(kind.Config)}
    x = draw(1, TOKENS, WIDTH).requires_grad_(outer)
    with torch.set_grad_enabled(outer):
        y, state = memory(x)
    found = [y]
    map_state(lambda tensor: found.append(tensor) or tensor, state)
    if outer:  # an option that affects only gradients
        found += torch.autograd.grad(y.sin().sum(), x)
    if hasattr(memory, "trained_levels"):  # written by an optimizer that uses these
        levels = [(level.period, level.share or 0.0) for level in memory.trained_levels()]
        found.append(torch.tensor(levels))
    return [tensor.detach().double() for tensor in found]


def result_of_model(name: str, options: dict[str, Any]) -> list[torch.Tensor] | None:
    """The same for a model, for levels that need the head."""
    values = {f"{name}.{key}": value for key, value in {**BASE[name], **options}.items()}
    shape = {"hidden_size": WIDTH, "num_heads": HEADS, "num_hidden_layers": 1, "vocab_size": 19}
    try:
        model = create("hope-tiny", pattern=("attention", name), **shape, **values).double()
    except UserError:
        return None
    model.train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    out = model(torch.arange(TOKENS)[None], use_cache=True)
    weight = model.get_input_embeddings().weight
    found = [out.logits, *torch.autograd.grad(out.logits.sin().sum(), weight)]
    map_state(lambda tensor: found.append(tensor) or tensor, out.past_key_values.states)
    return [tensor.detach().double() for tensor in found]


def alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether two results are equal up to rounding."""
    if [x.shape for x in one] != [x.shape for x in other]:
        return False
    return all(
        torch.allclose(a, b, rtol=1e-10, atol=1e-13) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("third", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
@pytest.mark.parametrize("name", MEMORIES.names())
def test_every_option_of_a_memory_changes_a_result_or_is_refused(name, third):
    """Each alone, and a third of them with each switch."""
    with checks.at_rest():
        wrong = judged(name, third)
    assert not wrong, "\n".join(wrong)


def judged(name: str, third: int) -> list[str]:
    """The problems of a memory's options."""
    fields = dataclasses.fields(MEMORIES.load(name).Config)
    choices = [(f.name, value) for f in fields for value in others(name, f)]
    # two switches meet twice, once in each order
    found_of = functools.cache(lambda options: result(name, dict(options)))
    alone = result(name, {})
    assert alone is not None
    known = {choice: result(name, dict([choice])) for choice in choices}
    refused = {choice for choice, found in known.items() if found is None}
    wrong = [
        f"{option}={value} changes nothing"
        for (option, value), found in known.items()
        if found is not None and alike(found, alone)
    ]
    for (switch, on), (option, value) in permutations(choices, 2):
        before = known[switch, on]
        if switch == option or not is_switch(on) or before is None:
            continue
        if (option, value) not in refused and third_of(switch, on, option, value) != third:
            continue
        after = found_of(frozenset({(switch, on), (option, value)}))
        if after is None:
            continue
        refused.discard((option, value))
        if alike(after, before) and (name, option, switch) not in EXCEPT:
            wrong.append(f"{option}={value} changes nothing with {switch}={on}")
    return [
        *wrong,
        *(f"{option}={value} is refused beside everything" for option, value in refused),
    ]


def third_of(*names: Any) -> int:
    """The third that a pair of options belongs to, in either order."""
    return zlib.crc32(repr(sorted(map(str, names))).encode()) % 3
