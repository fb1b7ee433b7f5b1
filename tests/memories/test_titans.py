"""Titans: reference loop, reductions, and bounds on long inputs."""

import naive_titans as naive
import pytest
import torch

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.titans import Titans, TitansMAC, TitansMAG, TitansMAL
from nestling.ops import momentum_gated_delta_rule

WIDTH, HEADS = 8, 2


def build(kind=Titans, *, strong=True, hidden_size=WIDTH, dtype=torch.float64, **options):
    """A small layer; ``strong``: gates, writes and reads far from their limits."""
    narrow = {} if options.get("layers") == 1 else {"expansion": 2}
    config = kind.Config(**{"period": 4, "persistent": 3, **narrow, **options})
    module = kind(config, hidden_size=hidden_size, num_heads=HEADS).to(dtype)
    generator = torch.Generator().manual_seed(0)
    module.init_weights(generator)
    if strong:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith(("alpha_bias", "theta_bias")):
                    parameter.fill_(-1.0 if "alpha" in name else 2.0)
                elif "initial" in name:
                    parameter.normal_(0, 0.7, generator=generator)
                elif parameter.ndim > 1 and "tokens" not in name:
                    parameter.normal_(0, 0.5, generator=generator)
    return module


def sequence(length, seed=1, batch=2, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


def assert_same_with_gradients(module, fast, slow, x):
    """Outputs, and the gradient of every parameter and input, to 1e-9."""
    names = ["x", *(n for n, _ in module.named_parameters())]
    wanted = [x, *module.parameters()]
    weights = torch.linspace(-1, 1, fast.numel(), dtype=fast.dtype).view_as(fast)
    assert (fast - slow).norm() <= 1e-9 * slow.norm()
    grads = [torch.autograd.grad((y * weights).sum(), wanted) for y in (fast, slow)]
    for name, got, want in zip(names, *grads, strict=True):
        assert want.norm() > 0, name
        assert (got - want).norm() <= 1e-9 * want.norm(), name


VARIANTS = {
    "default": {},
    "matrix": {"layers": 1},
    "three layers": {"layers": 3},
    "no momentum": {"momentum": False},
    "matrix, no momentum": {"layers": 1, "momentum": False},
    "forgets to zero": {"decay_to": "zero"},
    "matrix, forgets to zero": {"layers": 1, "decay_to": "zero"},
    "no persistent tokens": {"persistent": 0},
    "many persistent tokens": {"persistent": 6},
    "period 1": {"period": 1},
    "clipped": {"clip": 0.1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    module, x = build(**VARIANTS[name]), sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    fast, _ = module(x, None, Flow(reset=reset))
    assert_same_with_gradients(module, fast, naive.each_document(naive.titans, module, x, reset), x)


ARCHITECTURES = {
    "MAG": (TitansMAG, naive.mag, {"window": 3}),
    "MAG, grouped heads, matrix": (TitansMAG, naive.mag, {"num_kv_heads": 1, "layers": 1}),
    "MAG, no persistent tokens": (TitansMAG, naive.mag, {"window": 3, "persistent": 0}),
    "MAL": (TitansMAL, naive.mal, {"window": 4}),
    "MAL, wide window, no momentum": (TitansMAL, naive.mal, {"momentum": False}),
    "MAC": (TitansMAC, naive.mac, {}),
    "MAC, grouped heads, to zero": (TitansMAC, naive.mac, {"num_kv_heads": 1, "decay_to": "zero"}),
    "MAC, one segment": (TitansMAC, naive.mac, {"period": 16, "persistent": 0}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_matches_reference_loop(name):
    kind, loops, options = ARCHITECTURES[name]
    module, x = build(kind, **options), sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    fast, _ = module(x, None, Flow(reset=reset))
    assert_same_with_gradients(module, fast, naive.each_document(loops, module, x, reset), x)


@pytest.mark.parametrize("decay_to", ["init", "zero"])
def test_state_holds_the_weights_of_the_equations(decay_to):
    module, x = build(decay_to=decay_to), sequence(10)
    _, state = module(x)
    base = module.memory.base()
    for row in range(2):
        heads, _ = naive.heads_of(module.memory, module.persistent())
        naive.read(module.memory, heads, x[row])
        for h, head in enumerate(heads):
            for layer in range(2):
                start = 0 if base is None else base[layer][h]
                for got, want in (
                    (state.weight[layer][row, h] + start, head.weight[layer]),
                    (state.anchor[layer][row, h] + start, head.anchor[layer]),
                    (state.momentum[layer][row, h], head.momentum[layer]),
                ):
                    assert (got - want).norm() <= 1e-9 * want.norm()
    assert state.count.tolist() == [10, 10]


def kernel_inputs(module, x):
    """A matrix memory's keys, values and gates in the kernel's layout, and its initial weight."""
    memory = module.memory
    rows, _ = memory.project(x, memory.convolution.init_tail(len(x)), Flow())
    q, k, v = (part.transpose(1, 2) for part in (rows.q, rows.k, rows.v))
    theta, alpha = rows.theta.mT, rows.alpha.mT
    return q, k, v, theta, alpha, memory.initial_layers[0]


def raw_reads(module, x):
    memory = module.memory
    return memory(x, None, Flow(), module.persistent())[0].unflatten(-1, (HEADS, -1))


def test_linear_memory_with_period_one_is_the_delta_rule_kernel():
    """Without momentum: M <- (1 - alpha) M - theta (M k) k^T + theta v k^T; nothing is clipped."""
    options = {"layers": 1, "momentum": False, "period": 1, "decay_to": "zero", "persistent": 0}
    module, x = build(clip=1e6, **options), sequence(13)
    q, k, v, theta, alpha, start = kernel_inputs(module, x)
    y, _ = momentum_gated_delta_rule(
        q, k, theta[..., None] * v, alpha=1 - alpha, beta=theta, initial=start
    )
    torch.testing.assert_close(raw_reads(module, x), y, rtol=1e-9, atol=1e-11)


def test_gated_delta_rule_up_to_decay_placement():
    """Gated DeltaNet erases after the decay, a (M - b (M k) k^T) + b v' k^T; Titans before it. They
    are equal with a = 1 - alpha, b = theta / a and v' = a v.
    """
    options = {"layers": 1, "momentum": False, "period": 1, "decay_to": "zero", "persistent": 0}
    module, x = build(clip=1e6, **options), sequence(13)
    q, k, v, theta, alpha, start = kernel_inputs(module, x)
    a = 1 - alpha
    b, values = theta / a, a[..., None] * v
    weight, outputs = start.expand(2, -1, -1, -1), []
    for t in range(13):
        eraser = torch.einsum("bhvk,bhk,bhj->bhvj", weight, k[:, t], k[:, t])
        write = torch.einsum("bhv,bhk->bhvk", values[:, t], k[:, t])
        kept = weight - b[:, t, :, None, None] * eraser
        weight = a[:, t, :, None, None] * kept + b[:, t, :, None, None] * write
        outputs.append(torch.einsum("bhvk,bhk->bhv", weight, q[:, t]))
    torch.testing.assert_close(raw_reads(module, x), torch.stack(outputs, 1), rtol=1e-9, atol=1e-11)


def test_linear_memory_within_a_period_is_the_momentum_kernel():
    """The gradient is taken at the anchor: the write is - theta (M_0 k - v)."""
    options = {"layers": 1, "period": 16, "decay_to": "zero", "persistent": 0}
    module, x = build(clip=1e6, **options), sequence(13)
    q, k, v, theta, alpha, start = kernel_inputs(module, x)
    eta = module.memory.project(x, module.memory.convolution.init_tail(2), Flow())[0].eta.mT
    error = torch.einsum("hvk,bthk->bthv", start, k) - v
    y, _ = momentum_gated_delta_rule(
        q, k, -theta[..., None] * error, alpha=1 - alpha, mu=eta, initial=start
    )
    torch.testing.assert_close(raw_reads(module, x), y, rtol=1e-9, atol=1e-11)


def test_persistent_tokens_are_visible_to_the_first_token():
    """Changing one changes the first output of every document, and no earlier output."""
    module, x = build(), sequence(9)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[:, 5] = True
    _, state = module(x)
    before, carried = module(x, state, Flow(reset=reset))[0], module(x, state)[0]
    with torch.no_grad():
        module.persistent.tokens[0] += 1
    after = module(x, state, Flow(reset=reset))[0]
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().amax() > 1e-4
    assert torch.equal(carried, module(x, state)[0])


LONG = {
    "one token repeated": (16, lambda: sequence(1, batch=1, width=16).expand(1, 10_000, 16)),
    "random tokens": (128, lambda: sequence(20_000, batch=1, width=16)),
}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        # every memory and every text in the suite; all combinations are slow tests
        pytest.param(
            options, name, marks=[pytest.mark.slow] if slow else [], id=f"{options}-{name}"
        )
        for options, name, slow in [
            ({"layers": 1}, "one token repeated", False),
            ({"layers": 1}, "random tokens", False),
            ({"strong": True}, "one token repeated", True),
            ({"strong": True}, "random tokens", False),
            ({}, "one token repeated", False),
            ({}, "random tokens", True),
        ]
    ],
)
def test_reads_and_weights_stay_bounded(options, name):
    period, draw = LONG[name]
    options = {"strong": False, **options}
    module = build(hidden_size=16, period=period, dtype=torch.float32, **options)
    reads, norms, state = [], [], None
    with torch.no_grad():
        for part in draw().float().split(1250, dim=1):
            y, state = module.memory(part, state, Flow(), module.persistent())
            reads.append(float(y.abs().max()))
            norms.append(max(float(w.norm()) for w in state.weight))
    values = module.memory.projection.weight[32:].norm(dim=1).max() * 16**0.5 * 4
    assert max(reads) < 2 * values
    half = len(norms) // 2
    if options["strong"]:
        # with gates this wide open the norm fluctuates; a growing one would not return
        assert min(norms[-half // 2 :]) < 1.3 * max(norms[:half])
    else:
        assert max(norms[half:]) < 1.3 * max(norms[:half])


@pytest.mark.parametrize("kind", [TitansMAC, TitansMAG, TitansMAL])
@pytest.mark.parametrize("repeated", [True, False])
def test_outputs_do_not_grow_along_a_text(kind, repeated):
    # half-lives far shorter than the text, so that writes and decay are balanced
    options = {"hidden_size": 16, "period": 16, "half_life": (16.0, 64.0)}
    module = build(kind, strong=False, dtype=torch.float32, **options)
    x = sequence(1 if repeated else 600, batch=1, width=16).float().expand(1, 600, 16)
    norms, state = [], None
    with torch.no_grad():
        for part in x.split(150, dim=1):
            y, state = module(part, state)
            assert torch.isfinite(y).all()
            norms.append(max(float(w.norm()) for w in state.memory.weight))
    assert max(norms[2:]) < 1.3 * max(norms[:2])


def test_repeated_key_moves_output_to_its_value_without_overshoot():
    module = build(strong=False, layers=1, period=16, momentum=False, dtype=torch.float64)
    with torch.no_grad():
        module.memory.theta_weight.zero_()
        module.memory.theta_bias.fill_(30.0)  # the largest step
        module.memory.alpha_weight.zero_()
        module.memory.alpha_bias.fill_(-30.0)  # nothing is forgotten
        x = sequence(1).expand(2, 60, WIDTH)
        y, state = module.memory(x, None, Flow(), module.persistent())
        rows, _ = module.memory.project(x, state.tail, Flow())
        weight = state.weight[0] + module.memory.initial_layers[0]
        answer = rows.k[:, :, -1:] @ weight.mT
    torch.testing.assert_close(answer, rows.v[:, :, -1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recall_start", [True, False])
def test_untrained_memory_recalls_next_tokens_with_tied_keys_and_queries(recall_start):
    """Compares the query of a token with the key of its earlier successor."""
    module = build(strong=False, hidden_size=64, recall_start=recall_start)
    x = sequence(12, batch=4, width=64)
    x[:, 9] = x[:, 4]
    rows, _ = module.memory.project(x, module.memory.convolution.init_tail(4), Flow())
    scores = torch.einsum("bhd,bhtd->bht", rows.q[:, :, 9], rows.k[:, :, :9])
    following = scores[..., 5].mean() - scores[..., [1, 2, 3, 7]].mean()
    assert (following > 0.2) if recall_start else (following < 0.1)


def test_decay_to_zero_kills_a_deep_memory_and_decay_to_start_does_not():
    """Why ``decay_to`` is "init": with all layers near zero the gradients vanish."""
    alive = {}
    for decay_to in ("init", "zero"):
        module = build(
            strong=False, decay_to=decay_to, period=16, half_life=(16.0, 16.0), hidden_size=32
        )
        with torch.no_grad():
            before = module.memory.reach(module.init_state(1))
            _, state = module(sequence(500, batch=1, width=32))
            alive[decay_to] = (module.memory.reach(state) / before).min()
    assert alive["init"] > 0.3 and alive["zero"] < 0.01


def test_state_is_float32_for_a_bfloat16_model():
    module = build(hidden_size=16).bfloat16()
    y, state = module(sequence(9, width=16).bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert {w.dtype for w in (*state.weight, *state.momentum)} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers"),
        ({"decay_to": "one"}, "decay_to"),
        ({"persistent": -1}, "persistent"),
        ({"theta_init": 1.0}, "theta_init"),
        ({"momentum_init": 0.0}, "momentum_init"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Titans.Config(**options)
