"""Conformance tests for every registered memory."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_memories import TINY, WIDTH, build, draw, every_memory, every_name
from tolerances import assert_close
from torch import nn

from nestling.core.gradient import twice
from nestling.core.memory import Flow, Memory, map_state
from nestling.memories import MEMORIES

LENGTH = 27  # tokens: past two of the longest periods
KEPT: dict[tuple[str, ...], Any] = {}


def in_pieces(memory: Memory, x: torch.Tensor, cuts: list[int], flow: Flow = Flow()):
    """Run [B, T, D] split at these positions, carrying the state."""
    state, outputs = None, []
    edges = [0, *sorted(cuts), x.shape[1]]
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        part = Flow(*(None if f is None else f[:, begin:end] for f in flow))
        y, state = memory(x[:, begin:end], state, part)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def test_every_memory_has_a_tiny_config():
    assert set(TINY) == set(MEMORIES.names())


@every_memory
def test_any_split_equals_the_whole(name, options):
    for cuts in ([0, 1, 2, 7, 8, 16, 21], [5, 13]):
        assert_any_split_equals_the_whole(name, options, cuts)


@every_memory
@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=5))
def test_random_splits_equal_the_whole(name, options, cuts):
    assert_any_split_equals_the_whole(name, options, cuts)


def assert_any_split_equals_the_whole(name, options, cuts):
    memory, x = once(name, options, build), draw(2, LENGTH, WIDTH)
    whole = once(name, options, lambda *_: memory(x)[0].detach())
    assert_close(in_pieces(memory, x, cuts)[0], whole)


def once(name: str, options: dict, make: Callable) -> Any:
    """A memory built once for all draws of a test."""
    case = (name, repr(options), make.__name__)
    if case not in KEPT:
        for other in [other for other in KEPT if other[:2] != case[:2]]:
            del KEPT[other]
        KEPT[case] = make(name, options)
    return KEPT[case]


@every_memory
def test_token_by_token_equals_the_whole_in_float32(name, options):
    memory, x = build(name, options, torch.float32), draw(2, LENGTH, WIDTH).float()
    whole, _ = memory(x)
    assert_close(in_pieces(memory, x, list(range(1, LENGTH)))[0], whole)


@every_memory
def test_causality(name, options):
    """Each row is changed from a different position on."""
    memory, x = build(name, options), draw(4, 33, WIDTH)
    later = torch.arange(33) >= torch.tensor([1, 7, 16, 30])[:, None]
    other = torch.where(later[..., None], 100 * draw(4, 33, WIDTH, seed=2), x)
    one, two = memory(other)[0], memory(x)[0]
    torch.testing.assert_close(one[~later], two[~later], rtol=0, atol=1e-12)


@every_name
def test_only_stateful_memories_depend_on_the_past(name, options):
    """The counterpart of causality: a stateful memory depends on earlier inputs."""
    memory, x = build(name, options), draw(1, 20, WIDTH)
    other = x.clone()
    other[:, 17] = draw(1, WIDTH, seed=3)
    changed = not torch.equal(memory(x)[0][:, 19], memory(other)[0][:, 19])
    assert changed == (memory.init_state(1) is not None)


@every_memory
def test_rows_are_independent(name, options):
    memory, x = build(name, options), draw(3, 21, WIDTH)
    whole, _ = memory(x)
    for row in range(3):
        assert_close(memory(x[row : row + 1])[0], whole[row : row + 1])
    poisoned = x.clone()
    poisoned[1] = float("nan")
    assert_close(memory(poisoned)[0][::2], whole[::2])


@st.composite
def layouts(draw):
    """Rows of documents as (valid tokens, padding after), of equal length, and split points."""
    rows = draw(
        st.lists(
            st.lists(st.tuples(st.integers(1, 14), st.integers(0, 4)), min_size=1, max_size=3),
            min_size=1,
            max_size=3,
        )
    )
    length = max(sum(map(sum, row)) for row in rows)
    padded = [[*row[:-1], (row[-1][0], row[-1][1] + length - sum(map(sum, row)))] for row in rows]
    return padded, length, draw(st.lists(st.integers(0, length), max_size=3))


def flow_of(rows: list, length: int) -> tuple[Flow, list]:
    reset = torch.zeros(len(rows), length, dtype=torch.bool)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    places = []
    for index, row in enumerate(rows):
        at = 0
        for valid, fill in row:
            reset[index, at] = True
            mask[index, at : at + valid] = True
            places.append((index, slice(at, at + valid)))
            at += valid + fill
    return Flow(reset, mask), places


# padding inside and at the end, one-token documents, splits in documents, padding and at an edge
LAYOUT = [[(5, 2), (9, 0), (1, 3)], [(1, 0), (12, 7)], [(3, 4), (13, 0)]], 20, [4, 6, 16]
# and the whole sequence without splits
WHOLE = [[(8, 0), (7, 0)], [(15, 0)]], 15, []


@every_memory
def test_packed_documents_equal_separate_ones_in_any_split(name, options):
    for layout in (LAYOUT, WHOLE):
        assert_packed_documents_equal_separate_ones(name, options, layout)


@every_memory
@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(layout=layouts())
def test_random_document_layouts_equal_separate_documents(name, options, layout):
    assert_packed_documents_equal_separate_ones(name, options, layout)


def assert_packed_documents_equal_separate_ones(name, options, layout):
    rows, length, cuts = layout
    memory, x = once(name, options, build), draw(len(rows), length, WIDTH)
    flow, places = flow_of(rows, length)
    # values at masked positions must not matter, however large
    x = torch.where(flow.mask[..., None], x, 1e3 * x)
    packed, _ = in_pieces(memory, x, cuts, flow)
    assert packed.isfinite().all()
    for row, span in places:
        assert_close(packed[row : row + 1, span], memory(x[row : row + 1, span])[0])


@every_memory
def test_masked_positions_leave_the_state_alone(name, options):
    memory, x = build(name, options), draw(2, 30, WIDTH)
    # the full-length row comes first, to show that rows are independent
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    _, state = memory(x[:, :12], None, Flow(mask=mask))
    _, state = memory(x[:, :3], state, Flow(mask=torch.zeros(2, 3, dtype=torch.bool)))
    after, _ = memory(x[:, 12:], state)
    rest = torch.cat((x[1:, :7], x[1:, 12:]), dim=1)
    assert_close(after[:1], memory(x[:1])[0][:, 12:])
    assert_close(after[1:], memory(rest)[0][:, 7:])


@every_name
def test_empty_sequence_leaves_state_unchanged(name, options):
    memory, x = build(name, options), draw(2, 19, WIDTH)
    _, state = memory(x[:, :9])
    for flow in (Flow(), Flow(*[torch.ones(2, 0, dtype=torch.bool)] * 2)):
        y, same = memory(x[:, :0], state, flow)
        assert y.shape == (2, 0, WIDTH)
        assert_close(memory(x[:, 9:], same)[0], memory(x[:, 9:], state)[0])


@every_name
def test_a_fresh_state_is_the_initial_state(name, options):
    memory, x = build(name, options), draw(2, 19, WIDTH)
    assert_close(memory(x, memory.init_state(2))[0], memory(x)[0])


@every_name
def test_state_is_immutable_and_batch_first(name, options):
    memory, x = build(name, options), draw(3, 19, WIDTH)
    for state in (memory.init_state(3), memory(x)[1]):
        sizes = []
        map_state(lambda tensor, sizes=sizes: sizes.append(tensor.shape[0]) or tensor, state)
        assert set(sizes) <= {3}
        before = map_state(torch.clone, state)
        memory(x, state, Flow(reset=torch.rand(3, 19) < 0.2))
        same = []
        pairs = iter_tensors(state), iter_tensors(before)
        same = [torch.equal(a, b) for a, b in zip(*pairs, strict=True)]
        assert all(same)


def iter_tensors(state) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)
    return found


@every_name
def test_reordered_rows_continue_identically(name, options):
    memory, x = build(name, options), draw(3, 23, WIDTH)
    _, state = memory(x[:, :11])
    order = torch.tensor([2, 0, 0])
    chosen = map_state(lambda tensor: tensor[order], state)
    assert_close(memory(x[order, 11:], chosen)[0], memory(x)[0][order, 11:])


@every_memory
def test_initialisation_sets_everything_and_is_repeatable(name, options):
    memory = build(name, options)
    expected = {key: value.clone() for key, value in memory.state_dict().items()}
    with torch.no_grad():
        for tensor in (*memory.parameters(), *memory.buffers()):
            tensor.fill_(float("nan"))
    before = torch.get_rng_state()
    memory.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    for key, value in memory.state_dict().items():
        assert torch.equal(value, expected[key]), key


@every_memory
def test_initial_states_stay_in_float32(name, options):
    memory = build(name, options)
    starts = {key for key, _ in memory.named_parameters() if "initial_" in key}
    assert starts <= set(memory.float32_parameters())


@pytest.mark.parametrize("name", MEMORIES.names())
def test_every_role_with_its_own_rate_has_parameters(name):
    kind = MEMORIES.load(name)
    memory = kind(kind.Config(), hidden_size=32, num_heads=2)
    found = memory.rate_factors()
    assert all(factor > 0 for factor in found.values())
    assert set(found.values()) == set(kind.rates.values())
    # initial states of two layers: the second starts small
    seconds = {n for n, _ in memory.named_parameters() if n.endswith("initial_second")}
    assert seconds <= set(found)


@every_memory
def test_an_unknown_option_is_refused(name, options):
    with pytest.raises(TypeError):
        MEMORIES.load(name).Config(no_such_option=1)


@every_memory
def test_second_derivatives_match_finite_differences(name, options):
    """The derivative of <gradient of x, d> along a direction through x and all parameters."""
    # with first order, gradients of in-context levels are not those of the map
    options = options | {"through": "full"} if name.startswith("cms_") else options
    memory, x, d = build(name, options), draw(1, 9, WIDTH), draw(1, 9, WIDTH, seed=2)
    values = [x.requires_grad_(), *memory.parameters()]
    generator = torch.Generator().manual_seed(4)
    way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in values]

    def slope() -> torch.Tensor:
        # a nonlinear function of the output, so that linear memories have second derivatives too
        grad = torch.autograd.grad(memory(x)[0].sin().sum(), x, create_graph=True)[0]
        return (grad * d).sum()

    def at(place: float) -> float:
        with torch.no_grad():
            for p, v in zip(values, way, strict=True):
                p.add_(place * v)
        found = float(slope())
        with torch.no_grad():
            for p, v in zip(values, way, strict=True):
                p.sub_(place * v)
        return found

    with twice():
        grads = torch.autograd.grad(slope(), values, allow_unused=True)
        # with strong curvature the larger steps are too large
        numeric = [
            (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h) for h in (3e-7, 3e-8, 3e-9)
        ]
    analytic = sum(float((g * v).sum()) for g, v in zip(grads, way, strict=True) if g is not None)
    assert abs(analytic) > 1e-3
    assert any(abs(analytic - found) <= 1e-5 * abs(found) for found in numeric), (analytic, numeric)


@every_memory
def test_levels_are_sorted_and_described(name, options):
    for level in build(name, options).levels():
        assert level.period >= 0
        assert level.name and level.objective and level.rule and level.context


@every_memory
def test_lora_on_every_linear_map_trains_and_merges(name, options):
    """LoRA wraps a linear map: it has no effect if a weight is used without calling the map."""
    memory, x = build(name, options), draw(2, 20, WIDTH)
    maps = [n for n, m in memory.named_modules() if isinstance(m, nn.Linear)]
    config = peft.LoraConfig(target_modules=maps, r=2, init_lora_weights=False)
    before, _ = memory(x)
    before.square().sum().backward()
    learned = {n for n in maps if memory.get_parameter(f"{n}.weight").grad is not None}
    peft.inject_adapter_in_model(config, memory)
    memory.double()
    y, _ = memory(x)
    assert not torch.allclose(y, before)
    y.square().sum().backward()
    adapters = {n: p.grad for n, p in memory.named_parameters() if "lora_" in n}
    assert len(adapters) == 2 * len(maps)
    heard = {n.split(".lora_")[0] for n, g in adapters.items() if g is not None and g.any()}
    assert heard == learned
    assert_close(in_pieces(memory, x, [7, 8])[0], y)
    for module in memory.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    assert_close(memory(x)[0], y)
