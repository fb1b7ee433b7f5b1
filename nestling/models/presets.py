"""Presets: Hope and every baseline, at matched numbers of parameters."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nestling.core.error import UserError, did_you_mean

# [AT] Table 7 and MIRAS Table 5 from 340m on; num_kv_heads and the widths of the feed-forward
# networks are ours: 12 hidden_size^2 parameters per layer (15 for 1.3b, to match its name)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "num_hidden_layers": 4, "num_heads": 4},
    "small": {"hidden_size": 512, "num_hidden_layers": 8, "num_heads": 8},
    "340m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_heads": 16},
    "760m": {"hidden_size": 1536, "num_hidden_layers": 24, "num_heads": 16},
    "1.3b": {"hidden_size": 2048, "num_hidden_layers": 18, "num_heads": 8},
}
FEED_FORWARD = {"tiny": 768, "small": 1536, "340m": 3072, "760m": 4608, "1.3b": 8192}
# tokens; in larger models the slow levels span several training batches
PERIODS = {
    "tiny": (256, 1024),
    "small": (256, 1024),
    "340m": (4096, 32768, 262144),
    "760m": (4096, 32768, 262144),
    "1.3b": (4096, 32768, 262144),
}
# tokens that sliding-window attention sees
WINDOWS = {"tiny": 128, "small": 128, "340m": 2048, "760m": 2048, "1.3b": 2048}
TIED = ("tiny", "small")  # here separate embeddings would dominate the number of parameters

Options = dict[str, dict[str, Any]]


def _none(size: str) -> Options:
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One system at every size.

    ``feed_forward`` is the width of the feed-forward networks in the pattern, by size (empty: none
    to set). It matches the parameters to those of Transformer++ of the same size, as
    tests/conformance/test_presets.py checks.
    """

    pattern: tuple[str, ...]  # memories of one repeat
    feed_forward: dict[str, int]
    options: Callable[[str], Options] = _none  # size -> options of each memory, by name
    layers: int = 1  # layers of Transformer++ that one repeat of the pattern corresponds to

    def build(self, size: str) -> dict[str, Any]:
        """The HopeConfig arguments."""
        shape = dict(SIZES[size])
        shape["num_hidden_layers"] //= self.layers
        memories = copy.deepcopy(self.options(size))
        if self.feed_forward:
            width = self.feed_forward[size]
            memories.setdefault(self.pattern[-1], {})["intermediate_size"] = width
        return {
            **shape,
            "pattern": self.pattern,
            "memories": memories,
            "tie_word_embeddings": size in TIED,
        }


def _grouped(size: str) -> Options:
    return {"attention": {"num_kv_heads": SIZES[size]["num_heads"] // 2}}


def _windowed(size: str) -> Options:
    return {"attention": {**_grouped(size)["attention"], "window": WINDOWS[size]}}


def _titans(name: str, windowed: bool) -> Callable[[str], Options]:
    """Options of a Titans architecture, with the attention of the other systems."""
    return lambda size: {
        name: _windowed(size)["attention"] if windowed else _grouped(size)["attention"]
    }


def _chain(size: str) -> Options:
    return {"cms": {"periods": PERIODS[size]}}


def _corrected(size: str) -> Options:
    # the public code of Comba: 0.02 suits small models, 1 large ones
    return {"comba": {"correction_init": 1.0 if size in ("760m", "1.3b") else 0.02}}


# channels, in heads of 64: there is no other network, so this width has to match the number of
# parameters; keys of 96 where 128 would not give whole heads
MAMBA2_INNER = {"tiny": 448, "small": 960, "340m": 1920, "760m": 2944, "1.3b": 4992}
MAMBA2_STATE = {"tiny": 96, "small": 96}


def _mamba2(size: str) -> Options:
    return {"mamba2": {"inner_size": MAMBA2_INNER[size], "state_size": MAMBA2_STATE.get(size, 128)}}


# clip length of output gradients in the memories that produce keys, values and rates: below about
# .5 rounding differences die out along a text (docs/equations.md)
STABLE = {"projection_clip": 0.25}


def _hope(size: str) -> Options:
    return {**_chain(size), "self_titans": dict(STABLE)}


# options of self_titans: k, v and the rates come from projections, like q
PROJECTED = {f"adaptive_{name}": False for name in ("k", "v", "eta", "alpha")}

# channels per head at which attention and a matrix have the parameters of a Transformer block
ADAPTIVE_HEADS = {"tiny": 166, "small": 176, "340m": 184, "760m": 276, "1.3b": 868}


# head widths: the cost per token is cubic in Newton-Schulz and quadratic in softmax of the weights
def _narrow(memory: str, width: int) -> Callable[[str], Options]:
    return lambda size: {memory: {"heads": SIZES[size]["hidden_size"] // width}}


FAMILIES: dict[str, Family] = {
    "hope": Family(
        pattern=("self_titans", "cms"),
        options=_hope,
        feed_forward={"tiny": 192, "small": 480, "340m": 720, "760m": 1088, "1.3b": 1984},
    ),
    "hope-attention": Family(
        pattern=("attention", "cms"),
        options=lambda size: _grouped(size) | _chain(size),
        feed_forward={size: FEED_FORWARD[size] // len(PERIODS[size]) for size in SIZES},
    ),
    "ttt-linear": Family(
        pattern=("ttt_linear", "mlp"),
        feed_forward={"tiny": 656, "small": 1328, "340m": 2704, "760m": 4048, "1.3b": 7424},
    ),
    "ttt-mlp": Family(
        pattern=("ttt_mlp", "mlp"),
        feed_forward={"tiny": 512, "small": 1184, "340m": 2544, "760m": 3824, "1.3b": 6816},
    ),
    "transformer": Family(
        pattern=("attention", "mlp"), options=_grouped, feed_forward=FEED_FORWARD
    ),
    # there are only attention and the matrices that replace the MLP, so both are wider
    "ada-transformer": Family(
        pattern=("ada_transformer",),
        feed_forward={},
        options=lambda size: {"ada_transformer": {"head_size": ADAPTIVE_HEADS[size]}},
    ),
    "sliding-window": Family(
        pattern=("attention", "mlp"), options=_windowed, feed_forward=FEED_FORWARD
    ),
    # two layers per repeat, as published: Mamba, then sliding-window attention
    "samba": Family(
        pattern=("mamba", "mlp", "attention", "mlp"),
        options=_windowed,
        layers=2,
        feed_forward={"tiny": 608, "small": 1248, "340m": 2496, "760m": 3760, "1.3b": 7072},
    ),
    "mamba2": Family(pattern=("mamba2", "mamba2"), feed_forward={}, options=_mamba2),
    "lstm": Family(
        pattern=("lstm", "mlp"),
        feed_forward={"tiny": 256, "small": 512, "340m": 1024, "760m": 1536, "1.3b": 4096},
    ),
    "rwkv7": Family(
        pattern=("rwkv7", "mlp"),
        feed_forward={"tiny": 592, "small": 1248, "340m": 2528, "760m": 3872, "1.3b": 7200},
    ),
    "srwm": Family(
        pattern=("srwm", "mlp"),
        feed_forward={"tiny": 880, "small": 1808, "340m": 3696, "760m": 5536, "1.3b": 9296},
    ),
    # the stages before self-modification: projections only, and memories with shared values
    "base-titans": Family(
        pattern=("self_titans", "mlp"),
        options=lambda size: {"self_titans": {"values": "shared", **PROJECTED}},
        feed_forward={"tiny": 544, "small": 1152, "340m": 2336, "760m": 3520, "1.3b": 6656},
    ),
    "shared-titans": Family(
        pattern=("self_titans", "mlp"),
        options=lambda size: {"self_titans": {"values": "shared", "adaptive_q": True, **STABLE}},
        feed_forward={"tiny": 336, "small": 928, "340m": 2128, "760m": 3200, "1.3b": 5792},
    ),
    "titans-lmm": Family(
        pattern=("titans", "mlp"),
        feed_forward={"tiny": 416, "small": 1008, "340m": 2192, "760m": 3312, "1.3b": 6128},
    ),
    "titans-mac": Family(
        pattern=("titans_mac", "mlp"),
        options=_titans("titans_mac", windowed=False),
        feed_forward={"tiny": 240, "small": 672, "340m": 1520, "760m": 2288, "1.3b": 4768},
    ),
    "titans-mag": Family(
        pattern=("titans_mag", "mlp"),
        options=_titans("titans_mag", windowed=True),
        feed_forward={"tiny": 336, "small": 832, "340m": 1856, "760m": 2800, "1.3b": 5440},
    ),
    "titans-mal": Family(
        pattern=("titans_mal", "mlp"),
        options=_titans("titans_mal", windowed=True),
        feed_forward={"tiny": 160, "small": 496, "340m": 1168, "760m": 1776, "1.3b": 4080},
    ),
    "linear-attention": Family(
        pattern=("linear_attention", "mlp"),
        feed_forward={"tiny": 688, "small": 1360, "340m": 2736, "760m": 4096, "1.3b": 7504},
    ),
    "retnet": Family(
        pattern=("retnet", "mlp"),
        feed_forward={"tiny": 336, "small": 688, "340m": 1360, "760m": 2048, "1.3b": 4784},
    ),
    "delta-net": Family(
        pattern=("delta_net", "mlp"),
        feed_forward={"tiny": 672, "small": 1360, "340m": 2720, "760m": 4080, "1.3b": 7504},
    ),
    "gated-delta-net": Family(
        pattern=("gated_delta_net", "mlp"),
        feed_forward={"tiny": 512, "small": 1008, "340m": 2032, "760m": 3056, "1.3b": 6128},
    ),
    "oja-net": Family(
        pattern=("oja_net", "mlp"),
        feed_forward={"tiny": 672, "small": 1360, "340m": 2720, "760m": 4080, "1.3b": 7504},
    ),
    "comba": Family(
        pattern=("comba", "mlp"),
        options=_corrected,
        feed_forward={"tiny": 512, "small": 1008, "340m": 2032, "760m": 3056, "1.3b": 6128},
    ),
    "dla": Family(
        pattern=("dla", "mlp"),
        feed_forward={"tiny": 416, "small": 1008, "340m": 2192, "760m": 3312, "1.3b": 6128},
    ),
    "omega": Family(
        pattern=("omega", "mlp"),
        feed_forward={"tiny": 416, "small": 1008, "340m": 2192, "760m": 3312, "1.3b": 6128},
    ),
    "atlas": Family(
        pattern=("atlas", "mlp"),
        options=_narrow("atlas", 32),
        feed_forward={"tiny": 496, "small": 1088, "340m": 2256, "760m": 3424, "1.3b": 6656},
    ),
    "memora": Family(
        pattern=("memora", "mlp"),
        options=_narrow("memora", 64),
        feed_forward={"tiny": 416, "small": 1008, "340m": 2208, "760m": 3376, "1.3b": 6608},
    ),
}

PRESETS = {
    f"{name}-{size}": family.build(size) for name, family in FAMILIES.items() for size in SIZES
}


def preset_names() -> list[str]:
    """All preset names."""
    return list(PRESETS)


def preset(name: str) -> dict[str, Any]:
    """The HopeConfig arguments of a preset; an unknown name raises UserError."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: {did_you_mean(name, PRESETS)}")
    return copy.deepcopy(PRESETS[name])
