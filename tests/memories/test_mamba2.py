"""Mamba-2: against a reference loop and transformers."""

import re
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import nn
from torch.nn import functional
from transformers import Mamba2Config, Mamba2ForCausalLM

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.mamba import Mamba2
from nestling.models import create

PARTS = {
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "memory.projection.weight",
    "mixer.conv1d.weight": "memory.convolution.weight",
    "mixer.conv1d.bias": "memory.convolution.bias",
    "mixer.dt_bias": "memory.step_bias",
    "mixer.A_log": "memory.log_decay",
    "mixer.D": "memory.skip",
    "mixer.norm.weight": "memory.norm",
    "mixer.out_proj.weight": "memory.output.weight",
}
WHOLE = {
    "backbone.embeddings.weight": "backbone.embed_tokens.weight",
    "backbone.norm_f.weight": "backbone.norm.weight",
    "lm_head.weight": "lm_head.weight",
}


def build(strong: bool = True, **options: Any) -> Mamba2:
    """A small float64 mixer; strong: every weight of order one."""
    small: dict[str, Any] = {"head_size": 2, "state_size": 3}
    config = Mamba2.Config(**(small | options))
    module = Mamba2(config, hidden_size=6, num_heads=2).double()
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


def naive(module: Mamba2, x: torch.Tensor, reset: torch.Tensor) -> torch.Tensor:
    """Token by token, head by head, with the keys of the head's group."""
    config, inner, heads = module.config, module.inner, module.heads
    bias = module.convolution.bias
    assert bias is not None
    mixed_size = inner + 2 * module.keys
    rows = []
    for row, starts in zip(x, reset, strict=True):
        outputs, begin = [], 0
        weights = [x.new_zeros(config.head_size, config.state_size) for _ in range(heads)]
        for t in range(len(row)):
            if starts[t]:
                begin = t
                weights = [torch.zeros_like(w) for w in weights]
            mixed = bias
            for lag in range(min(config.convolution, t - begin + 1)):
                before = (module.projection.weight @ row[t - lag])[inner : inner + mixed_size]
                mixed = mixed + module.convolution.weight[:, -1 - lag] * before
            mixed = mixed * torch.sigmoid(mixed)
            projected = module.projection.weight @ row[t]
            gate, step = projected[:inner], projected[inner + mixed_size :]
            u, keys, queries = mixed.split((inner, module.keys, module.keys))
            y = []
            for h in range(heads):
                group = h // (heads // config.groups)
                span = slice(group * config.state_size, (group + 1) * config.state_size)
                k, q = keys[span], queries[span]
                own = u[h * config.head_size : (h + 1) * config.head_size]
                delta = torch.log1p(torch.exp(step[h] + module.step_bias[h]))
                alpha = torch.exp(-delta * torch.exp(module.log_decay[h]))
                weights[h] = alpha * weights[h] + torch.outer(delta * own, k)
                y.append(weights[h] @ q + module.skip[h] * own)
            gated = torch.cat(y) * functional.silu(gate)
            normed = [
                part / torch.sqrt(part.square().mean() + 1e-5)
                for part in gated.chunk(config.groups)
            ]
            outputs.append(module.output.weight @ (module.norm * torch.cat(normed)))
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [1, 2])
def test_matches_equations_token_by_token(groups):
    """Outputs and the gradient of every parameter and input, float64."""
    module = build(inner_size=8, groups=groups)
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


class NormOfGroups(nn.Module):
    """The gated norm over each group's channels; transformers has it over all of them."""

    def __init__(self, weight: nn.Parameter, groups: int):
        super().__init__()
        self.weight, self.groups = weight, groups

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        parts = (x * functional.silu(gate)).chunk(self.groups, dim=-1)
        scaled = [p * torch.rsqrt(p.square().mean(-1, keepdim=True) + 1e-5) for p in parts]
        return self.weight * torch.cat(scaled, dim=-1)


def models(groups: int) -> tuple[nn.Module, nn.Module]:
    """A Mamba-2 of transformers and ours with its weights, two layers."""
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=101,
        hidden_size=48,
        num_hidden_layers=2,
        num_heads=6,
        head_dim=16,
        state_size=24,
        n_groups=groups,
        chunk_size=32,
        tie_word_embeddings=True,
    )
    theirs = Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = create(
        "mamba2-tiny",
        vocab_size=101,
        hidden_size=48,
        pattern=("mamba2",),
        memories={"mamba2": {"head_size": 16, "state_size": 24, "groups": groups}},
        num_hidden_layers=2,
        norm_eps=1e-5,
    )
    weights = {translated(name): value for name, value in theirs.state_dict().items()}
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    ours.load_state_dict({name: value.view(shapes[name]) for name, value in weights.items()})
    if groups > 1:
        for layer in theirs.backbone.layers:
            layer.mixer.norm = NormOfGroups(layer.mixer.norm.weight, groups)
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 3])
def test_matches_transformers_in_full_and_token_by_token(groups):
    ours, theirs = models(groups)
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
    ours, theirs = models(1)
    ids = torch.randint(0, 101, (2, 40))
    mask = torch.ones_like(ids)
    mask[1, :15] = 0
    expected = theirs(ids, attention_mask=mask, use_cache=False).logits
    found = ours(ids, attention_mask=mask).logits
    assert_close(found[mask.bool()], expected[mask.bool()])


def test_equals_attention_with_decay_mask():
    """The dual form: y_t = sum over s <= t of (q_t . k_s) alpha_{s+1} .. alpha_t delta_s x_s."""
    module = build()
    mixture, step = torch.randn(2, 9, 12 + 6).double(), torch.randn(2, 9, 6).double()
    u, k, q = mixture.split((12, 3, 3), dim=-1)
    u = u.unflatten(-1, (6, 2))
    delta = functional.softplus(step + module.step_bias)
    total = (-delta * module.log_decay.exp()).cumsum(1)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[..., None]
    decay = torch.where(mask, total[:, :, None] - total[:, None], -torch.inf).exp()
    y = torch.einsum("btn,bsn,btsh,bshv->bthv", q, k, decay, delta[..., None] * u)
    y = (y + module.skip[:, None] * u).flatten(-2)
    found, _ = module._scan(mixture, step, module.init_state(2).weight, Flow())
    assert_close(found, y)


def test_published_initialisation():
    """Decays uniform over 1 .. 16, steps log-uniform over 0.001 .. 0.1, skip one."""
    module = Mamba2(Mamba2.Config(head_size=1, state_size=4), hidden_size=512, num_heads=8)
    module.init_weights(torch.Generator().manual_seed(0))
    decay = module.log_decay.exp()
    assert 1 <= decay.min() < 1.2 and 15.8 < decay.max() <= 16.001
    assert abs(decay.mean() - 8.5) < 0.4
    steps = functional.softplus(module.step_bias)
    assert 0.00099 < steps.min() < 0.0012 and 0.08 < steps.max() < 0.1001
    assert 0.45 < (steps < 0.01).float().mean() < 0.55
    assert torch.equal(module.skip, torch.ones(1024))


def test_the_state_is_float32_in_a_bfloat16_model():
    module = build(strong=False).bfloat16()
    y, state = module(sequence(9).bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert state.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_size": 0}, "state_size"),
        ({"initial_steps": (0.1, 0.001)}, "initial_steps"),
        ({"initial_decay": (2.0, 1.0)}, "initial_decay"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Mamba2.Config(**options)


def test_heads_must_divide_into_groups():
    with pytest.raises(UserError, match="12 channels do not split into 1 groups of heads of 5"):
        build(head_size=5)
