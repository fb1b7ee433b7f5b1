"""Training on an accelerator matches a CPU."""

import pytest
from small_models import SMALL

from nestling.models import create
from nestling.train import Run, TrainConfig
from nestling_lab.bench.training_cost import RandomText


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["hope", "gated-delta-net"])
def test_losses_match_between_cuda_and_cpu(family):
    """Three steps, so that gradients of every memory take effect."""
    losses = {}
    for device in ("cpu", "cuda"):
        model = create(f"{family}-tiny", seed=0, **SMALL).to(device)
        config = TrainConfig(batch_size=2, sequence_length=80, carry=False)
        run = Run(model, RandomText(SMALL["vocab_size"], 2, 80), config)
        losses[device] = []
        for _ in range(3):
            run.step()
            losses[device].append(run.totals.loss)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-4)
    assert losses["cuda"][2] < losses["cuda"][0]
