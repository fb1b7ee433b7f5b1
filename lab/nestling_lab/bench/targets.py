"""The performance targets, and how the committed Results compare with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result

RESULTS = Path("benchmarks/results")
TRAIN = "nestling bench train --threads 2 --presets {} --shapes {}"
NO_GPU = "needs a GPU, and none was available"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio to reach: where it is measured, and its bounds."""

    what: str
    must: float
    stretch: float
    benchmark: str  # name of the Result
    path: tuple[str, ...]  # keys of the ratio in the metrics
    command: str  # the command that measures it
    device: str = "cpu"  # the type of device it is measured on
    lower_is_better: bool = False

    def green(self, ratio: float) -> bool:
        """Whether the ratio meets the target."""
        return ratio <= self.must if self.lower_is_better else ratio >= self.must


def _training(
    what: str, preset: str, shape: str, must: float, stretch: float, command: str
) -> Target:
    """A training speed relative to Transformer++ at one shape."""
    return Target(
        what=f"{what} over Transformer++, training tokens/s at {shape}",
        must=must,
        stretch=stretch,
        benchmark="bench train",
        path=("shapes", shape, "presets", preset, "over_reference"),
        command=command,
    )


def _decoding(how: str, suffix: str) -> Target:
    """The decoding speed relative to Transformer++ with its cache, both in the same form."""
    return Target(
        what=f"hope over Transformer++ with cache, decode tokens/s, batch 1, context 4096, {how}",
        must=0.8,
        stretch=1.2,
        benchmark="bench decode",
        path=("presets", f"hope-tiny{suffix}", "over", f"transformer-tiny{suffix}"),
        command=f"{DECODE} --contexts 512 4096 --peers --compile",
    )


def _on_gpu(key: str, what: str, must: float, stretch: float) -> Target:
    return Target(
        what=what,
        must=must,
        stretch=stretch,
        benchmark="bench gpu",
        path=(key, "ratio"),
        command="see docs/gpu.md",
        device="cuda",
    )


def _peer(name: str, what: str, must: float, stretch: float) -> Target:
    """Our training speed relative to a third-party model with the same equations."""
    return Target(
        what=f"{what}, training tokens/s at 4x512",
        must=must,
        stretch=stretch,
        benchmark="bench train",
        path=("shapes", "4x512", "over_peer", name),
        command=f"{TRAIN.format(PEERED, '4x512')} --peers llama,mamba2,qwen3-next",
    )


def _titans(name: str, where: str, must: float, stretch: float) -> Target:
    return Target(
        what=f"our Titans memory over that of titans-pytorch {where}, forward and backward",
        must=must,
        stretch=stretch,
        benchmark="bench ops",
        path=("titans", name, "over_peer"),
        command="nestling bench ops --threads 2 --peers --rounds 3",
    )


def _stepping(what: str, entrant: str, reference: str, must: float) -> Target:
    """The time of an optimizer step relative to one of torch's; 1 is the same."""
    return Target(
        what=f"{what} over {reference}, time of a step",
        must=must,
        stretch=1.0,
        benchmark="bench optim",
        path=("optimizers", entrant, "over_reference"),
        command="nestling bench optim --threads 2",
        lower_is_better=True,
    )


PEERED = "mamba2,gated-delta-net"
DECODE = "nestling bench decode --threads 2 --presets hope"
SHORT = TRAIN.format("hope,hope-attention,ttt-linear,ttt-mlp", "4x512")
LONG = TRAIN.format("hope", "1x512 1x16384") + " --rounds 3 --no-peak"

TARGETS: dict[str, Target] = {
    "hope_train_4x512": _training("hope", "hope-tiny", "4x512", 0.35, 0.55, SHORT),
    "hope_train_1x4096": _training(
        "hope", "hope-tiny", "1x4096", 0.65, 1.0, TRAIN.format("hope", "1x4096")
    ),
    "hope_train_1x16384": _training("hope", "hope-tiny", "1x16384", 1.6, 2.5, LONG),
    "hope_time_per_token": Target(
        what="hope, training time per token at 1x16384 over 1x512",
        must=1.15,
        stretch=1.05,
        benchmark="bench train",
        path=("time_per_token", "hope-tiny", "1x16384 over 1x512"),
        command=LONG,
        lower_is_better=True,
    ),
    "hope_peak_memory": Target(
        what="hope over Transformer++, peak memory of a training step at 4x512",
        must=2.0,
        stretch=1.6,
        benchmark="bench memory",
        path=("presets", "hope-tiny", "over_reference"),
        command="nestling bench memory --presets all --shape 4x512",
        lower_is_better=True,
    ),
    "hope_attention_train": _training(
        "hope-attention", "hope-attention-tiny", "4x512", 0.85, 0.95, SHORT
    ),
    "ttt_linear_train": _training("ttt-linear", "ttt-linear-tiny", "4x512", 0.85, 1.0, SHORT),
    "ttt_mlp_train": _training("ttt-mlp", "ttt-mlp-tiny", "4x512", 0.45, 0.6, SHORT),
    "mamba2_over_transformers": _peer(
        "mamba2", "our Mamba2 over transformers' torch path", 1.3, 2.0
    ),
    "gated_delta_net_over_transformers": _peer(
        "qwen3-next", "our Gated DeltaNet over transformers' torch path", 1.15, 2.0
    ),
    "titans_over_titans_pytorch": _titans("readme", "at its README shape", 1.5, 3.0),
    "titans_over_titans_pytorch_16": _titans("period 16", "at memory chunk 16", 5.0, 20.0),
    "decode_flat": Target(
        what="hope, decode ms/token at context 65536 over 512",
        must=1.05,
        stretch=1.0,
        benchmark="bench decode",
        path=("presets", "hope-tiny", "flat", "65536 over 512"),
        command=f"{DECODE} --contexts 512 65536 --batch 0",
        lower_is_better=True,
    ),
    "decode_over_transformer": _decoding("both compiled", ", compiled"),
    "decode_over_transformer_plain": _decoding("neither compiled", ""),
    "m3_step": _stepping("M3", "m3 (matrices)", "torch's Muon", 1.35),
    "delta_momentum_scalar_step": _stepping(
        "delta momentum, scalar", "delta_momentum, scalar", "torch's SGD with momentum", 1.3
    ),
    "delta_momentum_row_step": _stepping(
        "delta momentum, row", "delta_momentum, row", "torch's SGD with momentum", 2.0
    ),
    "gpu_kernel_momentum": _on_gpu(
        "kernel_momentum",
        "kernel with momentum over fla's chunk_gated_delta_rule, forward and backward",
        0.45,
        0.6,
    ),
    "gpu_kernel": _on_gpu(
        "kernel",
        "kernel without momentum over fla's chunk_gated_delta_rule, forward and backward",
        0.7,
        1.0,
    ),
    "gpu_hope_4096": _on_gpu(
        "hope_340m_4096", "hope-340m over Transformer++, training at 4096", 0.15, 0.5
    ),
    "gpu_hope_32768": _on_gpu(
        "hope_340m_32768", "hope-340m over Transformer++, training at 32768", 0.5, 1.0
    ),
}


def read_all(folder: Path) -> list[tuple[Path, Result]]:
    """The Results in a folder, newest first. Raises UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; give the folder of the Results with --results"
        )
    found = [(path, Result.read(path)) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda pair: str(pair[1].provenance.get("date")), reverse=True)


def at(tree: Any, path: Sequence[str]) -> float | None:
    """The finite number at a path of keys; None if there is none.

    >>> at({"a": {"b": 2}}, ("a", "b")), at({"a": 1}, ("a", "b"))
    (2.0, None)
    """
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    number = isinstance(tree, int | float) and not isinstance(tree, bool)
    return float(tree) if number and math.isfinite(tree) else None


def standing(results: Sequence[tuple[Path, Result]]) -> dict[str, dict[str, Any]]:
    """For each target the newest measured ratio, and whether it is met (``green``).

    Without a measurement, ``ratio`` and ``green`` are None and ``reason`` says why.
    """
    found = {}
    for key, target in TARGETS.items():
        row: dict[str, Any] = {
            "what": target.what,
            "ratio": None,
            "must": target.must,
            "stretch": target.stretch,
            "lower_is_better": target.lower_is_better,
            "command": target.command,
            "green": None,
            "reason": NO_GPU if target.device == "cuda" else f"not measured: {target.command}",
        }
        for path, result in results:
            here = str(result.config.get("device", "cpu")).startswith(target.device)
            ratio = at(result.metrics, target.path) if here else None
            if result.name == target.benchmark and ratio is not None:
                row |= {"ratio": ratio, "green": target.green(ratio), "reason": None}
                row |= {"source": path.name, "threads": result.provenance.get("threads")}
                break
        found[key] = row
    return found
