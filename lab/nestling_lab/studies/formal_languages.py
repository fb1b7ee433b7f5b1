"""Formal languages (the paper's Table 5), words of the lengths of training and longer ones."""

from collections.abc import Mapping
from typing import Any, ClassVar

from nestling_lab.studies.by_protocol import ByProtocol, Sizes

SIZE = {"hidden_size": 64, "num_hidden_layers": 1, "num_heads": 4}
# eigenvalues down to -1, the dot objective and reads after the write: exact in any chunk, here of
# 16 tokens. No convolution, with which parity is learned far slower. Models have one layer
TRACKING = {
    "self_titans.eta_max": 2.0,
    "self_titans.objective": "dot",
    "self_titans.read": "post",
    "self_titans.period": 16,
    "self_titans.projection_period": 16,
    "self_titans.convolution": 1,
}
SIGNED = "delta-net-signed"  # a delta net with the same eigenvalues and no convolution either


class FormalLanguages(ByProtocol):
    """Six languages, each learned by a small model of one layer."""

    name = "formal-languages"
    question = "which systems recognise formal languages, in words longer than those of training"
    MODELS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hope": {**SIZE, **TRACKING},
        "lstm": {**SIZE, "mlp.intermediate_size": 356},
        "srwm": {**SIZE, "mlp.intermediate_size": 512},
        "delta-net": {**SIZE, "mlp.intermediate_size": 460},
        SIGNED: {
            **SIZE,
            "mlp.intermediate_size": 463,
            "delta_net.allow_neg_eigval": True,
            "delta_net.convolution": 1,
        },
        "mamba2": {**SIZE, "mamba2.inner_size": 256, "mamba2.state_size": 16},
        "transformer": {**SIZE, "mlp.intermediate_size": 488},
    }
    PRESETS: ClassVar[Mapping[str, str]] = {SIGNED: "delta-net-tiny"}
    PAPER = "formal"
    TITLES: ClassVar[Mapping[str, str]] = {
        "formal-parity": "parity",
        "formal-aa-star": "(aa)*",
        "formal-abab-star": "(abab)*",
        "formal-anbn": "a^n b^n",
        "formal-anbncn": "a^n b^n c^n",
        "formal-shuffle-2": "shuffle-2",
    }
    ABOUT = (
        "Share of words with the right class after every symbol: of the lengths of training / of "
        "longer ones."
    )

    SIZES = Sizes(
        models=tuple(MODELS),
        tasks=tuple(TITLES),
        seeds=(0, 1, 2),
        learning_rates=(2e-3, 6e-3),
        epochs=8,
        train_examples=2500,
        batch_size=16,
        rows=500,
    )
