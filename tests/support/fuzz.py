"""Random calls into compiled code: valid ones are finite, invalid ones raise UserError.

To be run in a process of its own: a shape that is not compared could end the process.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nestling import ops
from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models import create
from nestling.models.cache import named_tensors
from nestling.ops.diagonal_delta_rule.inputs import inputs as diagonal_inputs
from nestling.ops.momentum_gated_delta_rule.inputs import inputs as delta_inputs
from nestling.ops.selective_scan.inputs import inputs as scan_inputs
from nestling.ops.selective_scan.inputs import rates
from nestling.optim import Leveled
from nestling.optim.build import build, optimizer_names

SIZES = st.integers(1, 5)
DTYPES = st.sampled_from([torch.float32, torch.float64])
FAMILIES = (
    "hope",
    "ttt-linear",
    "ttt-mlp",
    "delta-net",
    "gated-delta-net",
    "retnet",
    "lstm",
    "mamba2",
)
MADE = {"num_heads": (2, 4), "hidden_size": (16, 32)}
CHANGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "none": lambda x, at: x,
    "one dimension more": lambda x, at: x.unsqueeze(at % (x.ndim + 1)),
    "one dimension less": lambda x, at: x.select(at % x.ndim, 0) if x.ndim else x,
    "one longer": lambda x, at: torch.cat((x, x.narrow(at % x.ndim, 0, 1)), at % x.ndim),
    "one shorter": lambda x, at: x.narrow(at % x.ndim, 0, x.shape[at % x.ndim] - 1),
    "of size 1": lambda x, at: x.narrow(at % x.ndim, 0, 1),
    "turned": lambda x, at: x.transpose(at % x.ndim, (at + 1) % x.ndim),
    "integers": lambda x, at: x.long(),
    "another float": lambda x, at: x.to(torch.bfloat16) if x.is_floating_point() else x,
    "no place": lambda x, at: x.to("meta"),
}
HOW = st.one_of(st.just("none"), st.sampled_from(sorted(CHANGES)))
told: Counter[str] = Counter()


def changed(x: Tensor, how: str, at: int) -> Tensor:
    """A tensor changed in the given way, if possible."""
    if how != "none" and (not x.ndim or 0 in x.shape):
        return x
    return CHANGES[how](x, at)


def same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal in all checked properties."""
    return (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)


def finite(tensors: Iterable[Any]) -> bool:
    """Whether all floating-point numbers are finite."""
    return all(
        bool(x.isfinite().all())
        for x in tensors
        if isinstance(x, Tensor) and x.is_floating_point() and x.device.type != "meta"
    )


def tried(call: Callable[[], Iterable[Any]], *, right: bool) -> None:
    """Make a call: a valid one must be finite; an invalid one may only raise UserError."""
    try:
        found = list(call())
    except UserError as error:
        if right:
            raise AssertionError(f"refused: {error}") from error
        told["refused"] += 1
        return
    told["computed"] += 1
    if right:
        assert finite(found), "a valid call gave a non-finite value"


def leaves(x: Any) -> list[Tensor]:
    """The tensors of a nested value."""
    return [tensor for _, tensor in named_tensors(x)] if x is not None else []


@st.composite
def op_calls(draw: Any) -> tuple[Any, dict[str, Any], str, str, int]:
    """An op, valid arguments, and a change to one of them."""
    sizes = {"batch": draw(SIZES), "length": draw(st.integers(1, 20)), "dtype": draw(DTYPES)}
    name = draw(st.sampled_from(["delta", "diagonal", "scan"]))
    if name == "scan":
        width, states = draw(SIZES), draw(SIZES)
        given = scan_inputs(0, **sizes, channels=width, states=states)
        given["rate"] = rates(channels=width, states=states, dtype=sizes["dtype"])
        op = ops.selective_scan
    else:
        more = {part: draw(SIZES) for part in ("heads", "key", "value")}
        if name == "delta":
            flags = {part: draw(st.booleans()) for part in ("momentum", "erase_key")}
            given, op = (
                delta_inputs(0, **sizes, **more, **flags),
                ops.momentum_gated_delta_rule,
            )
        else:
            given, op = diagonal_inputs(0, **sizes, **more), ops.diagonal_delta_rule
    if draw(st.booleans()):
        _, state = op(**given)
        parts = {f"state.{i}": x for i, x in enumerate(leaves(state))}
        given |= {"state": state} | parts
    for flag in ("reset", "mask"):
        if draw(st.booleans()):
            given[flag] = torch.ones(sizes["batch"], sizes["length"], dtype=torch.bool)
    part = draw(st.sampled_from(sorted(key for key in given if key != "state")))
    return op, given, part, draw(HOW), draw(st.integers(0, 3))


def fuzz_op(drawn: tuple[Any, dict[str, Any], str, str, int]) -> None:
    """One call of an op, and its gradients."""
    op, given, part, how, at = drawn
    old, new = given[part], changed(given[part], how, at)
    given = dict(given)
    if part.startswith("state."):
        counter, place = iter(range(9)), int(part.removeprefix("state."))
        given["state"] = map_state(lambda x: new if next(counter) == place else x, given["state"])
    else:
        given[part] = new
    given = {key: x for key, x in given.items() if not key.startswith("state.")}

    def call() -> Iterable[Any]:
        learned = {
            key: x.detach().requires_grad_()
            for key, x in given.items()
            if isinstance(x, Tensor) and x.is_floating_point()
        }
        y, state = op(**{**given, **learned})
        found = [y, *leaves(state)]
        if y.device.type != "meta":
            y.sum().backward()
        return [*found, *(x.grad for x in learned.values())]

    tried(call, right=same(old, new))


@st.composite
def optimizer_calls(draw: Any) -> tuple[Any, ...]:
    """An optimizer by name, two sizes of an embedding and a matrix, periods, and an event."""
    sizes = st.tuples(st.integers(2, 6), SIZES, SIZES)
    first = draw(sizes)
    return (
        draw(st.sampled_from(optimizer_names())),
        first,
        first if draw(st.booleans()) else draw(sizes),
        draw(st.booleans()),
        draw(st.sampled_from(["loaded", "enlarged", "with an old gradient"])),
    )


def fuzz_optimizer(drawn: tuple[Any, ...]) -> None:
    """Loading a state of another size, or resizing a parameter."""
    name, first, second, slow, how = drawn
    net, optimizer = trained(name, first, slow)
    if how == "loaded":
        _, other = trained(name, second, slow)

        def call() -> Iterable[Any]:
            optimizer.load_state_dict(other.state_dict())
            return stepped(net, optimizer)
    else:

        def call() -> Iterable[Any]:
            net[1].weight.data = torch.randn(second[2], second[1])
            if how == "enlarged":
                net[1].weight.grad = torch.ones_like(net[1].weight)
            optimizer.step()
            return [p for p in net.parameters() if p.shape]

    tried(call, right=first == second)


def trained(name: str, size: tuple[int, int, int], slow: bool) -> tuple[nn.Sequential, Any]:
    """An embedding and a matrix of a size, and their optimizer after three steps."""
    torch.manual_seed(0)
    rows, width, out = size
    net = nn.Sequential(nn.Embedding(rows, width), nn.Linear(width, out))
    groups = [{"params": [net[0].weight]}, {"params": list(net[1].parameters())}]
    if slow:
        groups[1]["period"] = 16
    optimizer = build(name, net, groups, lr=1e-3)
    optimizer = Leveled(optimizer, tokens_per_step=8) if slow else optimizer
    for _ in range(3):
        stepped(net, optimizer)
    return net, optimizer


def stepped(net: nn.Sequential, optimizer: Any) -> list[Tensor]:
    """The weights after a step."""
    optimizer.zero_grad()
    net(torch.tensor([0, 1, 1])).square().sum().backward()
    optimizer.step()
    return list(net.parameters())


@st.composite
def cache_calls(draw: Any) -> tuple[Any, ...]:
    """Two models, rows and tokens, and a change to the cache of the first."""

    def model() -> tuple[str, int, int]:
        sizes = (draw(st.sampled_from(MADE[size])) for size in MADE)
        return (draw(st.sampled_from(FAMILIES)), *sizes)  # ty: ignore[invalid-return-type]

    first = model()
    second = first if draw(st.booleans()) else model()
    rows, length = draw(st.integers(1, 3)), st.integers(1, 7)
    batch = rows if draw(st.booleans()) else draw(st.integers(1, 3))
    numbers = (rows, batch, draw(length), draw(length))
    return first, second, numbers, draw(st.integers(0, 20)), draw(HOW), draw(st.integers(0, 4))


KEPT: dict[Any, Any] = {}


def model_of(key: tuple[str, int, int]) -> Any:
    """A cached model by family and sizes."""
    if key not in KEPT:
        more = {"num_heads": key[1], "hidden_size": key[2]}
        KEPT[key] = create(f"{key[0]}-tiny", vocab_size=32, num_hidden_layers=1, **more).eval()
    return KEPT[key]


@torch.no_grad()
def fuzz_cache(drawn: tuple[Any, ...]) -> None:
    """A modified cache of one model, passed to another."""
    first, second, (rows, batch, read, more), place, how, at = drawn
    cache = model_of(first)(torch.zeros(rows, read, dtype=torch.long)).past_key_values
    tensors = leaves(cache.states)
    place %= len(tensors)
    new = changed(tensors[place], how, at)
    counter = iter(range(99))
    cache.states = map_state(lambda x: new if next(counter) == place else x, cache.states)

    def call() -> Iterable[Any]:
        out = model_of(second)(torch.ones(batch, more, dtype=torch.long), past_key_values=cache)
        return [out.logits, *leaves(out.past_key_values.states)]

    tried(call, right=(first, rows) == (second, batch) and same(tensors[place], new))


KINDS = {
    "ops": (op_calls, fuzz_op),
    "optimizers": (optimizer_calls, fuzz_optimizer),
    "caches": (cache_calls, fuzz_cache),
}


def draw_calls(kinds: list[str], count: int) -> None:
    """Draw ``count`` calls of each kind; the first that fails is shown, shrunk."""
    for kind in kinds:
        _draw_calls(*KINDS[kind], count)


def _draw_calls(calls: Callable[[], Any], check: Callable[[Any], None], count: int) -> None:
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    told.clear()
    quiet(given(calls())(check))()
    assert told["computed"] and told["refused"]
