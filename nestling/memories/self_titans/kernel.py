"""The self-modifying Titans by the compiled kernels of ops/self_titans.

The kernel counts periods itself, without ``nestling.memories.period``: it runs each row through all
of its tokens with the weights in cache, and returning to Python at every cut would undo that.
"""

from jaxtyping import Float
from torch import Tensor

from nestling.core.memory import Flow
from nestling.memories.self_titans.decode import move_on
from nestling.memories.self_titans.layers import Layers, Readouts
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.memories.self_titans.state import SelfTitansState
from nestling.ops.self_titans import LONGEST, TOKENS, Options, cut, group_of, scan
from nestling.ops.self_titans.token import token

# options of which the kernels support one value only; other values use the torch code
COMPILED = {
    "writes": True,
    "momentum": True,
    "normalised_momentum": True,
    "decay": True,
    "adaptive_k": True,
    "adaptive_v": True,
    "adaptive_q": False,
    "adaptive_eta": True,
    "adaptive_alpha": True,
    "network": "mlp",
    "values": "own",
    "detach_target": True,
    "rule": "dgd",
    "step": "energy",
    "rates": "head",
    "read": "post",
    "decay_to": "init",
    "erase": "deviation",
}


def fits(config: SelfTitansOptions) -> bool:
    """Whether the compiled kernel supports these options."""
    output, others = config.periods()
    known = all(getattr(config, name) == value for name, value in COMPILED.items())
    return known and output == others <= LONGEST


def options_of(config: SelfTitansOptions) -> Options:
    """The options that the kernel needs."""
    return Options(config.epsilon, *config.clips(), config.eta_max, config.objective == "dot")


def one_by_kernel(
    config: SelfTitansOptions,
    initial: Layers,
    rates: Readouts,
    projected: Float[Tensor, "B 1 3 H D"],
    mu: Float[Tensor, "B 1 H"],
    state: SelfTitansState,
) -> tuple[Float[Tensor, "B 1 H D"], SelfTitansState]:
    """Read one token of every row with the compiled kernel."""
    dtype = projected.dtype
    pairs = (initial, state.anchor, state.weight, state.momentum)
    states = [x.to(dtype) for pair in pairs for x in pair if x is not None]
    rates_now = [x.to(dtype) for x in rates if x is not None]
    y, new = token(projected, mu, states[:2], rates_now, states[2:], options_of(config))
    weight, momentum = Layers(*new[:2]), Layers(*new[2:])
    after = state._replace(weight=weight, momentum=momentum, opened=None)
    return y, move_on(config, initial.first.shape[1], after, None)


def all_by_kernel(
    config: SelfTitansOptions,
    initial: Layers,
    rates: Readouts,
    projected: Float[Tensor, "B T 3 H D"],
    mu: Float[Tensor, "B T H"],
    state: SelfTitansState,
    flow: Flow,
) -> tuple[Float[Tensor, "B T H D"], SelfTitansState]:
    """Read all tokens of all rows with the compiled kernel."""
    dtype = projected.dtype
    pairs = (initial, state.anchor, state.weight, state.momentum)
    states = [x.to(dtype) for pair in pairs for x in pair if x is not None]
    cuts = cut(
        state.count,
        flow.reset,
        flow.mask,
        length=projected.shape[1],
        period=config.period,
        tokens=TOKENS,
        group=group_of(*initial.first.shape[:0:-1]),
    )
    y, after = scan(
        projected,
        mu,
        states[:2],
        [x.to(dtype) for x in rates if x is not None],
        states[2:],
        cuts=cuts,
        options=options_of(config),
    )
    anchor, weight, momentum = (Layers(*after[i : i + 2]) for i in (0, 2, 4))
    if bool(cuts.closes.all()):
        anchor = weight
    return y, SelfTitansState(state.tail, anchor, weight, momentum, cuts.tokens)
