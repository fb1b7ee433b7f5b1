"""The CMS in context: reference loop, meta-gradients, bounds, and the static chain at rate 0."""

import naive_cms
import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.cms.chain import CMS
from nestling.memories.cms.context import CMSContext
from nestling.rules import RULES

WIDTH = 8


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def strong(memory):
    """Weights large enough that every write shows."""
    with torch.no_grad():
        for number, p in enumerate(memory.parameters()):
            p.add_(0.3 * draw(*p.shape, seed=50 + number))
    return memory


def build(**options) -> CMSContext:
    alone = {"objective": "local", "through": "full", "intermediate_size": 6, "learning_rate": 0.3}
    config = CMSContext.Config(**alone | options)
    memory = CMSContext(config, hidden_size=WIDTH, num_heads=2).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    return strong(memory)


BOUNDS = [
    {"clip": None, "trust": None, "learning_rate": 0.02},
    {"clip": 0.5, "trust": None, "loss": "l2"},
    {"clip": 1.0, "trust": 0.05},
]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("periods", [(1,), (4,), (3, 6), (2, 4, 8)])
def test_equation_73_matches_reference_loop(periods, bounds):
    """Outputs and the gradients of every parameter and of the input, through all writes."""
    memory, x = build(periods=periods, **bounds), draw(2, 18, WIDTH).requires_grad_()
    weight = draw(2, 18, WIDTH, seed=3)
    y, _ = memory(x)
    expected = torch.stack([naive_cms.chain(memory, row) for row in x])
    assert_close(y, expected)
    inputs = [x, *memory.parameters()]
    ours = torch.autograd.grad((y * weight).sum(), inputs)
    loop = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, loop, strict=True):
        assert_close(one, other)
    assert all(g.abs().max() > 0 for g in ours)


def test_documents_starting_inside_a_row():
    memory, x = build(periods=(2, 4)), draw(2, 15, WIDTH)
    reset = torch.zeros(2, 15, dtype=torch.bool)
    reset[0, 5], reset[1, 9], reset[1, 10] = True, True, True
    y, _ = memory(x, None, Flow(reset=reset))
    assert_close(y[0], naive_cms.chain(memory, x[0], {5}))
    assert_close(y[1], naive_cms.chain(memory, x[1], {9, 10}))


@pytest.mark.parametrize("rule", RULES)
def test_rate_zero_equals_the_static_chain(rule):
    memory, x = build(periods=(2, 8), rule=rule, learning_rate=0.0), draw(2, 20, WIDTH)
    static = CMS(CMS.Config(periods=(2, 8), intermediate_size=6), hidden_size=WIDTH, num_heads=2)
    static.double().load_state_dict(memory.state_dict(), strict=False)
    y, state = memory(x)
    assert_close(y, static(x)[0])
    assert not any(m.any() for own in state for m in own.level.moved)


@pytest.mark.parametrize("rule", RULES)
def test_level_changes_only_at_multiples_of_its_period(rule):
    memory, x = build(periods=(2, 6), rule=rule), draw(2, 12, WIDTH)
    state = memory.init_state(2)
    for count in range(1, 13):
        before = [own.level.moved for own in state]
        _, state = memory(x[:, count - 1 : count], state)
        for period, old, own in zip((2, 6), before, state, strict=True):
            same = all(torch.equal(a, b) for a, b in zip(old, own.level.moved, strict=True))
            assert same == (count % period != 0)
            assert own.level.writes.tolist() == [count // period] * 2


@pytest.mark.parametrize("rule", RULES)
def test_meta_gradients_match_finite_differences(rule):
    memory = build(periods=(2, 4), rule=rule, learning_rate=0.1, intermediate_size=3, trust=0.3)
    names = [name for name, _ in memory.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in memory.parameters()]

    def read(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(memory, given, (x,))[0]

    inputs = (draw(1, 6, WIDTH).requires_grad_(), *values)
    assert torch.autograd.gradcheck(read, inputs, fast_mode=True)


def test_first_order_detaches_inner_gradients():
    """The same outputs; the initial state still gets gradients, the targets do not."""
    full, first = build(periods=(2,)), build(periods=(2,), through="first")
    x = draw(1, 9, WIDTH)
    assert torch.equal(full(x)[0], first(x)[0])
    first(x)[0].square().sum().backward()
    assert first.target.weight.grad is None
    assert first.chain[0].network.gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize("rule", RULES)
def test_one_document_cannot_blow_up_the_weights(rule):
    """For adversarial inputs a level stays within its trust region and outputs are finite."""
    memory = build(periods=(1, 4), rule=rule, learning_rate=100.0, trust=0.5)
    x = draw(2, 200, WIDTH) * 10.0 ** (torch.arange(200) % 13 - 4)[:, None]
    x[:, 50:150] = x[:, 50:51]
    y, state = memory(x)
    assert y.isfinite().all()
    for level, own in zip(memory.chain, state, strict=True):
        radius = 0.5 * sum(p.square().sum() for p in level.start()).sqrt()
        reach = sum(m.flatten(1).square().sum(1) for m in own.level.moved).sqrt()
        assert (reach <= radius * (1 + 1e-9)).all() and (reach > 0.01 * radius).all()


def test_loss_falls_on_repeated_text():
    """For a repeated period the level learns to map a token to its successor."""
    memory = build(periods=(8,), learning_rate=0.3, trust=None, loss="l2")
    x = draw(1, 8, WIDTH).repeat(1, 60, 1)
    _, state = memory(x)
    level = memory.chain[0]
    h = level.norm(x[0, :8])
    target = memory.target(h).roll(-1, 0)

    def error(theta):
        answers = torch.stack([naive_cms.network(theta, key) for key in h])
        return (answers - target).square().sum()

    theta = [s + m[0] for s, m in zip(level.start(), state[0].level.moved, strict=True)]
    assert error(theta) < 0.2 * error(level.start())


def test_levels_report_period_and_rule():
    boxes = build(periods=(2, 8), rule="adam").levels()
    assert [box.period for box in boxes] == [2, 2, 2, 8, 8, 8]
    assert all(box.per_sequence for box in boxes)
    weights = [box for box in boxes if box.depends_on]
    assert [box.name for box in weights] == ["cms_context.0", "cms_context.1"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"periods": (4, 6)}, "dividing"),
        ({"periods": ()}, "periods"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"rule": "adm"}, "did you mean 'adam'"),
        ({"objective": "locale"}, "did you mean 'local'"),
        ({"loss": "l3"}, "did you mean 'l2'"),
        ({"through": "firts"}, "did you mean 'first'"),
        ({"learning_rate": -1.0}, "learning rate"),
        ({"trust": 0.0}, "trust"),
    ],
)
def test_invalid_options_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        CMSContext.Config(**options)
