"""MAD's six tasks (the paper's Table 4), for small models."""

from collections.abc import Mapping
from typing import Any, ClassVar

from nestling_lab.studies.by_protocol import ByProtocol, Sizes

# two layers of width 64, feed-forward networks for equal parameters within 2 %
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2}


class MadTasks(ByProtocol):
    """Six tasks, each learned by a small model of two layers."""

    name = "mad"
    question = "which system does MAD's six synthetic tasks best"
    MODELS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "hope": {**SIZE, "cms.intermediate_size": 64},
        "titans-lmm": {**SIZE, "mlp.intermediate_size": 148},
        "mamba2": {**SIZE, "mamba2.inner_size": 128, "mamba2.state_size": 56},
        "gated-delta-net": {**SIZE, "mlp.intermediate_size": 212},
        "transformer": {**SIZE, "mlp.intermediate_size": 260},
    }
    PAPER = "mad"
    TITLES: ClassVar[Mapping[str, str]] = {
        "mad-compress": "compression",
        "mad-recall": "in-context recall",
        "mad-fuzzy-recall": "fuzzy recall",
        "mad-noisy-recall": "noisy recall",
        "mad-selective-copy": "selective copying",
        "mad-memorise": "memorization",
    }
    ABOUT = "Share of right answers to unseen rows."

    SIZES = Sizes(
        models=tuple(MODELS),
        tasks=tuple(TITLES),
        seeds=(0, 1, 2),
        learning_rates=(2e-3, 6e-3),
        epochs=3,
        train_examples=3200,
        batch_size=32,
        rows=640,
    )
