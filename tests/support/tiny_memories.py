"""Every registered memory at a small size, with the options to test."""

import pytest
import torch

from nestling.core.memory import Memory
from nestling.memories import MEMORIES

WIDTH, HEADS = 16, 2
TINY = {
    "attention": [
        {},
        {"window": 5},
        {"num_kv_heads": 1, "short_convolution": True},
    ],
    "ada_transformer": [{}, {"head_size": 6, "rate_init": 0.7, "matrices": 1}],
    "self_titans": [
        {"period": 8, "projection_period": 4},
        {"period": 4, "projection_period": 8, "adaptive_q": True, "eta_init": 0.3},
        {"period": 4, "projection_period": 4, "network": "matrix", "momentum": False},
        {"writes": False},
        {"period": 4, "projection_period": 8, "values": "shared", "adaptive_q": True},
        {"period": 4, "projection_period": 8, "rates": "channel", "detach_target": False},
        {"period": 8, "projection_period": 4, "decay": False, "adaptive_k": False},
    ],
    "lstm": [{}, {"forget_bias": -0.5}],
    "rwkv7": [{}, {"decay_rank": 3, "rate_rank": 2, "gate_rank": 5}],
    "srwm": [{}, {"initial_rate": 2.0, "input_softmax": False}],
    "ttt_linear": [{"mini_batch": 8}, {"mini_batch": 5, "backbone": "transformer"}],
    "ttt_mlp": [{"mini_batch": 1}, {"mini_batch": 8, "eta_base": 1.0}],
    "titans": [
        {"period": 8, "expansion": 2},
        {"period": 4, "layers": 1, "momentum": False, "persistent": 0},
        {"period": 4, "layers": 3, "expansion": 1, "decay_to": "zero", "persistent": 2},
    ],
    "linear_attention": [{}],
    "retnet": [{}, {"expand_value": 1.0}],
    "delta_net": [{}, {"allow_neg_eigval": True, "convolution": 1}],
    "gated_delta_net": [{}, {"allow_neg_eigval": True, "output_gate": False, "key_share": 0.5}],
    "oja_net": [{}, {"decay": False, "convolution": 1}],
    "comba": [{}, {"output_gate": False, "expand_value": 1.0, "form": "paper"}],
    "dla": [
        {"period": 8, "expansion": 2},
        {"period": 4, "layers": 1, "decay_to": "zero"},
        {"period": 4, "layers": 3, "expansion": 1, "heads": 4},
    ],
    "titans_mac": [
        {"period": 6, "expansion": 1, "num_kv_heads": 1},
        {"period": 4, "layers": 1, "momentum": False, "persistent": 0},
    ],
    "titans_mag": [{"period": 4, "expansion": 1, "window": 5, "persistent": 2}],
    "titans_mal": [{"period": 4, "expansion": 1, "window": 5, "persistent": 3}],
    "mamba": [
        {"state_size": 5},
        {"inner_size": 24, "state_size": 3, "step_rank": 4, "convolution": 2},
    ],
    "mamba2": [
        {"head_size": 8, "state_size": 6},
        {"inner_size": 24, "head_size": 6, "state_size": 4, "groups": 2, "convolution": 1},
    ],
    "omega": [
        {"period": 8, "expansion": 2, "window": 5},
        {"period": 4, "layers": 1, "decay_to": "zero", "window": 1, "degree": 2},
        {"period": 4, "expansion": 1, "heads": 4, "window": 7, "momentum": True},
        {"period": 4, "window": 2, "recall_start": False},
    ],
    "atlas": [
        {"period": 8, "expansion": 2, "window": 3},
        {"period": 4, "layers": 1, "decay_to": "zero", "window": 6, "newton_schulz": 3},
    ],
    "memora": [
        {"period": 8, "expansion": 2},
        {"period": 4, "layers": 1, "decay_to": "zero"},
    ],
    "mlp": [{"intermediate_size": 24}],
    "cms": [{"periods": (4, 8), "intermediate_size": 12}],
    "cms_context": [
        {"objective": "local", "periods": (2, 8), "intermediate_size": 12},
        {
            "objective": "local",
            "periods": (1, 4, 12),
            "intermediate_size": 8,
            "rule": "adam",
            "learning_rate": 0.05,
        },
        {
            "objective": "local",
            "periods": (3,),
            "intermediate_size": 8,
            "rule": "dgd",
            "learning_rate": 20.0,
        },
    ],
    "cms_nested": [
        {"objective": "local", "periods": (2, 6, 12), "intermediate_size": 8},
        {
            "objective": "local",
            "periods": (1, 3),
            "intermediate_size": 8,
            "rule": "momentum",
            "share": 0.5,
        },
    ],
    "cms_headwise": [{"objective": "local", "periods": (2, 8), "intermediate_size": 12}],
}
CASES = [(name, options) for name in TINY for options in TINY[name]]


def every_memory_with(others: list[pytest.Mark | pytest.MarkDecorator]) -> pytest.MarkDecorator:
    """Every memory with every set of its options; ``others`` marks those after the first."""
    return pytest.mark.parametrize(
        ("name", "options"),
        [
            pytest.param(
                name, options, id=f"{name}-{i}", marks=[] if options is TINY[name][0] else others
            )
            for i, (name, options) in enumerate(CASES)
        ],
    )


every_memory = every_memory_with([])
# for tests that hardly depend on options: only the first set is not marked slow
every_name = every_memory_with([pytest.mark.slow])


def build(name: str, options: dict, dtype: torch.dtype = torch.float64) -> Memory:
    kind = MEMORIES.load(name)
    memory = kind(kind.Config(**options), hidden_size=WIDTH, num_heads=HEADS).to(dtype)
    memory.init_weights(torch.Generator().manual_seed(0))
    return memory


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
