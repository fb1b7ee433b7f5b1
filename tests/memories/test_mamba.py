"""Mamba: against a reference loop and transformers."""

import re
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch.nn import functional
from transformers import MambaConfig, MambaForCausalLM

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.mamba import Mamba
from nestling.models import create

PARTS = {
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "memory.projection.weight",
    "mixer.conv1d.weight": "memory.convolution.weight",
    "mixer.conv1d.bias": "memory.convolution.bias",
    "mixer.x_proj.weight": "memory.selection.weight",
    "mixer.dt_proj.weight": "memory.step.weight",
    "mixer.dt_proj.bias": "memory.step_bias",
    "mixer.A_log": "memory.log_decay",
    "mixer.D": "memory.skip",
    "mixer.out_proj.weight": "memory.output.weight",
}
WHOLE = {
    "backbone.embeddings.weight": "backbone.embed_tokens.weight",
    "backbone.norm_f.weight": "backbone.norm.weight",
    "lm_head.weight": "lm_head.weight",
}


def build(strong: bool = True, **options: Any) -> Mamba:
    """A small float64 mixer; strong: every weight of order one."""
    small: dict[str, Any] = {"state_size": 3, "step_rank": 2}
    config = Mamba.Config(**(small | options))
    module = Mamba(config, hidden_size=6, num_heads=2).double()
    generator = torch.Generator().manual_seed(0)
    module.init_weights(generator)
    if strong:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, 0.7, generator=generator)
    return module


def sequence(length: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 6, generator=generator, dtype=torch.float64)


def naive(module: Mamba, x: torch.Tensor, reset: torch.Tensor) -> torch.Tensor:
    """Token by token, channel by channel, number by number."""
    inner, states = module.log_decay.shape
    bias = module.convolution.bias
    assert bias is not None
    width = module.config.convolution
    rows = []
    for row, starts in zip(x, reset, strict=True):
        outputs, begin = [], 0
        h = [[x.new_zeros(()) for _ in range(states)] for _ in range(inner)]
        for t in range(len(row)):
            if starts[t]:
                begin = t
                h = [[x.new_zeros(()) for _ in range(states)] for _ in range(inner)]
            mixed = bias
            for lag in range(min(width, t - begin + 1)):
                before = (module.projection.weight @ row[t - lag])[:inner]
                mixed = mixed + module.convolution.weight[:, -1 - lag] * before
            u = mixed * torch.sigmoid(mixed)
            gate = (module.projection.weight @ row[t])[inner:]
            chosen = module.selection.weight @ u
            low, k, q = chosen.split((module.rank, states, states))
            delta = torch.log1p(torch.exp(module.step.weight @ low + module.step_bias))
            y = []
            for d in range(inner):
                for n in range(states):
                    decay = torch.exp(-delta[d] * torch.exp(module.log_decay[d, n]))
                    h[d][n] = decay * h[d][n] + delta[d] * k[n] * u[d]
                read = sum(h[d][n] * q[n] for n in range(states))
                y.append(read + module.skip[d] * u[d])
            outputs.append(module.output.weight @ (torch.stack(y) * functional.silu(gate)))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def test_matches_equations_token_by_token():
    """Outputs and the gradient of every parameter and input, float64."""
    module = build(inner_size=5)
    x = sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    wanted = [x, *module.parameters()]
    results = []
    for y in (module(x, None, Flow(reset=reset))[0], naive(module, x, reset)):
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y, torch.autograd.grad((y * weights).sum(), wanted)))
    (fast, fast_grads), (truth, truth_grads) = results
    assert_close(fast, truth)
    names = ["x", *(n for n, _ in module.named_parameters())]
    for n, got, want in zip(names, fast_grads, truth_grads, strict=True):
        assert want.norm() > 0, n
        assert (got - want).norm() <= 1e-9 * want.norm(), n


def translated(name: str) -> str:
    if layer := re.fullmatch(r"backbone\.layers\.(\d+)\.(.*)", name):
        return f"backbone.blocks.{layer[1]}.{PARTS[layer[2]]}"
    return WHOLE[name]


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """A Mamba of transformers and ours with its weights, two layers."""
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=101, hidden_size=48, num_hidden_layers=2, layer_norm_epsilon=1e-6
    )
    theirs = MambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = create(
        "samba-tiny",
        vocab_size=101,
        hidden_size=48,
        pattern=("mamba",),
        memories={},
        num_hidden_layers=2,
    )
    weights = {translated(name): value for name, value in theirs.state_dict().items()}
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    ours.load_state_dict({name: value.view(shapes[name]) for name, value in weights.items()})
    return ours, theirs


@torch.no_grad()
def test_matches_transformers_in_full_and_token_by_token():
    ours, theirs = models()
    ids = torch.randint(0, 101, (2, 150))
    expected = theirs(ids).logits
    found = ours(ids).logits
    assert_close(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    prefix = theirs(ids[:, :140], use_cache=True)
    mine = ours(ids[:, :140], use_cache=True)
    for t in range(140, 150):
        piece = ids[:, t : t + 1]
        prefix = theirs(piece, cache_params=prefix.cache_params, use_cache=True)
        mine = ours(piece, past_key_values=mine.past_key_values, use_cache=True)
        torch.testing.assert_close(mine.logits, prefix.logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_matches_transformers_with_left_padding():
    ours, theirs = models()
    ids = torch.randint(0, 101, (2, 40))
    mask = torch.ones_like(ids)
    mask[1, :15] = 0
    expected = theirs(ids, attention_mask=mask, use_cache=False).logits
    found = ours(ids, attention_mask=mask).logits
    assert_close(found[mask.bool()], expected[mask.bool()])


def test_published_initialisation():
    """Rates -1 .. -N, steps log-uniform over 0.001 .. 0.1, skip one; all from the generator."""
    module = Mamba(Mamba.Config(), hidden_size=512, num_heads=8)
    module.init_weights(torch.Generator().manual_seed(0))
    assert_close(module.log_decay.exp(), torch.arange(1.0, 17).expand(1024, 16))
    steps = functional.softplus(module.step_bias)
    assert 0.00099 < steps.min() < 0.0012 and 0.08 < steps.max() < 0.1001
    # of a log-uniform draw half lies below the geometric mean, 0.01
    assert 0.45 < (steps < 0.01).float().mean() < 0.55
    assert module.step.weight.abs().max() <= module.rank**-0.5
    assert torch.equal(module.skip, torch.ones(1024))


def test_the_state_is_float32_in_a_bfloat16_model():
    module = build(strong=False).bfloat16()
    y, state = module(sequence(9).bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert state.state.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_size": 0}, "state_size"),
        ({"initial_steps": (0.1, 0.001)}, "initial_steps"),
        ({"smallest_step": 0.0}, "smallest_step"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Mamba.Config(**options)
