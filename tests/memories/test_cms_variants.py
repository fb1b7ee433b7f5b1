"""Nested and head-wise CMS in context: reference loops, resets, and reductions."""

import math

import naive_cms
import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories import MEMORIES
from nestling.memories.cms.headwise import CMSHeadwise
from nestling.memories.cms.nested import CMSNested

WIDTH = 8
VARIANTS = ("cms_context", "cms_nested", "cms_headwise")
every_variant = pytest.mark.parametrize("name", VARIANTS)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def build(name: str, **options):
    kind = MEMORIES.load(name)
    alone = {"objective": "local", "through": "full", "intermediate_size": 6, "learning_rate": 0.3}
    config = kind.Config(**alone | options)
    memory = kind(config, hidden_size=WIDTH, num_heads=2).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, p in enumerate(memory.parameters()):
            p.add_(0.3 * draw(*p.shape, seed=50 + number))
    return memory


def same_with_gradients(memory, x, y, expected):
    weight = draw(*x.shape, seed=3)
    assert_close(y, expected)
    inputs = [x, *memory.parameters()]
    ours = torch.autograd.grad((y * weight).sum(), inputs)
    loop = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, loop, strict=True):
        assert_close(one, other)
    assert all(g.abs().max() > 0 for g in ours)


@pytest.mark.parametrize("trust", [None, 0.1])
@pytest.mark.parametrize("periods", [(1, 3), (2, 4, 8)])
def test_equation_72_matches_reference_loop(periods, trust):
    memory = build("cms_nested", periods=periods, trust=trust, learning_rate=0.1)
    x = draw(2, 19, WIDTH).requires_grad_()
    expected = torch.stack([naive_cms.nested(memory, row)[0] for row in x])
    same_with_gradients(memory, x, memory(x)[0], expected)


def test_equation_72_with_documents_starting_inside_a_row():
    memory, x = build("cms_nested", periods=(2, 4)), draw(2, 15, WIDTH)
    reset = torch.zeros(2, 15, dtype=torch.bool)
    reset[0, 7], reset[1, 9] = True, True
    y, _ = memory(x, None, Flow(reset=reset))
    for row, start in enumerate((7, 9)):
        first, _ = naive_cms.nested(memory, x[row, :start])
        second, _ = naive_cms.nested(memory, x[row, start:])
        assert_close(y[row], torch.cat((first, second)))


@pytest.mark.parametrize("periods", [(3,), (2, 4, 8)])
def test_equation_74_matches_reference_loop(periods):
    memory = build("cms_headwise", periods=periods)
    x = draw(2, 18, WIDTH).requires_grad_()
    if len(periods) == 1:
        memory.mixture.requires_grad_(False)
        weight, expected = draw(2, 18, WIDTH), [naive_cms.headwise(memory, row) for row in x]
        assert_close(memory(x)[0] * weight, torch.stack(expected) * weight)
        return
    expected = torch.stack([naive_cms.headwise(memory, row) for row in x])
    same_with_gradients(memory, x, memory(x)[0], expected)


@pytest.mark.parametrize("periods", [(2, 6, 12), (3, 12)])
def test_level_resets_at_the_next_period(periods):
    memory, x = build("cms_nested", periods=periods), draw(2, 24, WIDTH)
    state = memory.init_state(2)
    for count in range(1, 25):
        before = state
        _, state = memory(x[:, count - 1 : count], state)
        for fast, (quick, slow) in enumerate(zip(periods[:-1], periods[1:], strict=True)):
            own = state[fast].own.level
            ratio = math.ceil(slow / quick)
            assert own.writes.tolist() == [count // quick % ratio] * 2
            at_its_start = not any(m.any() for m in own.moved)
            assert at_its_start == (count % slow < quick)
            kept = [
                torch.equal(a, b)
                for a, b in zip(before[fast].shift, state[fast].shift, strict=True)
            ]
            assert all(kept) == (count % slow != 0)


def test_start_stays_within_trust_region_of_learned_start():
    memory = build("cms_nested", periods=(1, 2), trust=0.2, share=0.9, learning_rate=50.0)
    x = draw(1, 100, WIDTH) * 10.0 ** (torch.arange(100) % 7)[:, None]
    y, state = memory(x)
    assert y.isfinite().all()
    radius = 0.2 * sum(p.square().sum() for p in memory.chain[0].start()).sqrt()
    reach = sum(s.square().sum() for s in state[0].shift).sqrt()
    assert 0.01 * radius < reach <= radius * (1 + 1e-9)


def test_shared_context_stays_in_the_fast_level():
    """After its reset the fast level knows the pairs that every slow period repeats."""
    options = {"periods": (8, 64), "learning_rate": 0.3, "trust": None, "share": 0.5, "loss": "l2"}
    memory = build("cms_nested", **options)
    x = draw(1, 8, WIDTH).repeat(1, 64, 1)
    _, state = memory(x)
    level = memory.chain[0]
    assert not any(m.any() for m in state[0].own.level.moved)
    h = level.norm(x[0, :8])
    target = memory.target(h).roll(-1, 0)

    def error(theta):
        return (torch.stack([naive_cms.network(theta, k) for k in h]) - target).square().sum()

    shifted = [s + m[0] for s, m in zip(level.start(), state[0].shift, strict=True)]
    assert error(shifted) < 0.5 * error(level.start())


@every_variant
def test_meta_gradients_match_finite_differences(name):
    memory = build(name, periods=(2, 4), learning_rate=0.1, intermediate_size=3, trust=0.3)
    names = [key for key, _ in memory.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in memory.parameters()]

    def read(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(memory, given, (x,))[0]

    inputs = (draw(1, 7, WIDTH).requires_grad_(), *values)
    assert torch.autograd.gradcheck(read, inputs, fast_mode=True)


@every_variant
def test_rate_zero_writes_nothing(name):
    memory, x = build(name, periods=(2, 4), learning_rate=0.0), draw(2, 13, WIDTH)
    whole, _ = memory(x)
    # every token by itself, from a fresh state
    alone = torch.stack([memory(x[:, t : t + 1])[0][:, 0] for t in range(13)], dim=1)
    assert_close(whole, alone)


def test_single_level_is_the_same_in_parallel_and_in_series():
    one, other = (build(name, periods=(3,)) for name in ("cms_context", "cms_headwise"))
    other.load_state_dict(one.state_dict(), strict=False)
    x = draw(2, 14, WIDTH)
    assert_close(other(x)[0], one(x)[0])


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        (CMSNested, {"share": 0.0}, "share"),
        (CMSNested, {"share": 1.0}, "share"),
        (CMSHeadwise, {"periods": (4, 6)}, "dividing"),
    ],
)
def test_invalid_options_are_refused(kind, options, word):
    with pytest.raises(UserError, match=word):
        kind.Config(**options)


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="heads"):
        CMSHeadwise(CMSHeadwise.Config(), hidden_size=8, num_heads=3)
