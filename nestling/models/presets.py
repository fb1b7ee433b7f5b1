"""Named models: Hope, Hope with attention, and the Transformer++ they are measured against."""

import copy
from typing import Any

from nestling.core.error import UserError, did_you_mean

# [AT] Table 7 and MIRAS Table 5 from 340m on; num_kv_heads and the widths of the feed-forward
# networks are ours: 12 hidden_size^2 parameters a layer (15 for 1.3b, which brings it to its name)
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "num_hidden_layers": 4, "num_heads": 4},
    "small": {"hidden_size": 512, "num_hidden_layers": 8, "num_heads": 8},
    "340m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_heads": 16},
    "760m": {"hidden_size": 1536, "num_hidden_layers": 24, "num_heads": 16},
    "1.3b": {"hidden_size": 2048, "num_hidden_layers": 18, "num_heads": 8},
}
FEED_FORWARD = {"tiny": 768, "small": 1536, "340m": 3072, "760m": 4608, "1.3b": 8192}
# tokens; the slow levels of the larger models span several of their training batches
PERIODS = {
    "tiny": (256, 1024),
    "small": (256, 1024),
    "340m": (4096, 32768, 262144),
    "760m": (4096, 32768, 262144),
    "1.3b": (4096, 32768, 262144),
}
TIED = ("tiny", "small")  # the embedding would outweigh the blocks of the others' size
# what the memories of Hope leave of the parameters of Transformer++, for each level of the chain
HOPE_FEED_FORWARD = {"tiny": 192, "small": 480, "340m": 720, "760m": 1088, "1.3b": 1984}


def _attention(size: str) -> dict[str, Any]:
    return {"num_kv_heads": SIZES[size]["num_heads"] // 2}


def _build(family: str, size: str) -> dict[str, Any]:
    """The arguments of HopeConfig for one family at one size."""
    periods = PERIODS[size]
    if family == "transformer":
        pattern = ("attention", "mlp")
        memories = {
            "attention": _attention(size),
            "mlp": {"intermediate_size": FEED_FORWARD[size]},
        }
    elif family == "hope-attention":
        pattern = ("attention", "cms")
        chain = {"periods": periods, "intermediate_size": FEED_FORWARD[size] // len(periods)}
        memories = {"attention": _attention(size), "cms": chain}
    else:
        pattern = ("self_titans", "cms")
        chain = {"periods": periods, "intermediate_size": HOPE_FEED_FORWARD[size]}
        memories = {"self_titans": {}, "cms": chain}
    return {
        **SIZES[size],
        "pattern": pattern,
        "memories": memories,
        "tie_word_embeddings": size in TIED,
    }


PRESETS = {
    f"{family}-{size}": _build(family, size)
    for family in ("hope", "hope-attention", "transformer")
    for size in SIZES
}


def preset_names() -> list[str]:
    """The names of all presets."""
    return list(PRESETS)


def preset(name: str) -> dict[str, Any]:
    """The arguments of HopeConfig that make a preset; an unknown name raises UserError."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: {did_you_mean(name, PRESETS)}")
    return copy.deepcopy(PRESETS[name])
