"""Plans match measured runs: parameters, operations, memory."""

import pytest

from nestling.models import configure, create
from nestling.train import Run, TrainConfig
from nestling.train.flops import flops_per_token
from nestling.train.plan import plan
from nestling_lab.bench.memory import peak_of
from nestling_lab.bench.training_cost import RandomText

WIDTH = {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2}


@pytest.mark.parametrize("name", ["transformer-tiny", "mamba2-tiny", "hope-tiny"])
def test_run_uses_the_planned_memory(name):
    shape = {"batch_size": 2, "sequence_length": 192}
    found = plan(configure(name, vocab_size=600, **WIDTH), sequence=192, batch=2, tokens=1e6)
    model = create(name, vocab_size=600, **WIDTH)
    assert found.parameters == model.num_parameters()
    assert found.flops == pytest.approx(flops_per_token(model, length=192), rel=0.1)
    run = Run(model, RandomText(600, 2, 192), TrainConfig(**shape, carry=False))
    run.step()
    run.optimizer.zero_grad()
    peak = peak_of(run.step)
    assert found.memory - found.weights - found.optimizer == pytest.approx(peak, rel=0.1)
    assert found.speed == pytest.approx(989e12 * 0.4 / found.flops)
    assert found.days == pytest.approx(1e6 / found.speed / 86400)
