"""Plans: extrapolation over length and layers, shares of ranks, and errors."""

import pytest
from cli_calls import run
from tiny_training import FAMILIES, SIZE

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.models import configure
from nestling.train import sketch
from nestling.train.plan import plan
from nestling.train.sketch import Cost, cost


def tiny(name="transformer-tiny", **options):
    return configure(name, vocab_size=300, **SIZE | FAMILIES.get(name, {}) | options)


@pytest.mark.parametrize("name", ["transformer-tiny", "gated-delta-net-tiny"])
def test_extrapolated_cost_matches_measured_cost(name, monkeypatch):
    """Exactly: costs are whole numbers, and polynomials of a length of whole chunks."""
    config = tiny(name, num_hidden_layers=2)
    followed = cost(config, 512)
    monkeypatch.setattr(sketch, "LONGEST", 512)
    read = cost(config, 512)
    for part in ("flops", "held", "state"):
        assert getattr(followed, part) == pytest.approx(getattr(read, part), rel=1e-3), part


def test_recomputed_activations_are_not_kept():
    """The forward pass of a block runs twice, except for its last product."""
    config = tiny(num_hidden_layers=6)
    kept, again = cost(config, 64), cost(config, 64, recompute=True)
    blocks = kept.flops - 6 * 64 * 32 * 300  # without the head
    assert 0.6 < (again.flops - kept.flops) / (blocks / 3) < 1
    assert again.held < 0.6 * kept.held and again.state == kept.state


def test_gradients_at_the_peak_are_not_extrapolated(monkeypatch):
    """No curvature is assumed if operations have none."""
    read = {128: Cost(128, 1300, 300, 8), 256: Cost(256, 2560, 40, 8), 384: Cost(384, 3840, 7, 8)}
    monkeypatch.setattr(sketch, "_at", lambda config, length, recompute, first: read[length])
    monkeypatch.setattr(sketch, "_measure", lambda config, layers, words, n, recompute: read[n])
    found = cost(tiny(num_hidden_layers=1), 4096)
    assert (found.flops, found.held, found.state) == pytest.approx((4096, 40960, 8))
    assert found.begun == 40


def test_ranks_share_rows_and_weights():
    alone = plan(tiny(), sequence=64, batch=4)
    rows = plan(tiny(), sequence=64, batch=4, gpus=4)
    parts = plan(tiny(), sequence=64, batch=4, gpus=4, shard=4, optimizer="m3")
    assert rows.activations == pytest.approx(alone.activations / 4, rel=1e-3)
    assert rows.speed == 4 * alone.speed
    assert (rows.weights, rows.optimizer) == (alone.weights, 2 * alone.weights)
    assert parts.gradients == alone.weights // 4
    # M3: two numbers per weight, and three per slow memory, one of them of half width
    assert 4 < parts.optimizer / parts.gradients < 5
    with pytest.raises(UserError, match="3 rows cannot be shared equally by 2 GPUs"):
        plan(tiny(), batch=3, gpus=2)
    with pytest.raises(UserError, match="utilisation"):
        plan(tiny(), utilisation=0)


def test_command_prints_and_writes_the_plan(tmp_path, capsys):
    file = tmp_path / "plan.json"
    command = ["plan", "transformer-tiny", "--sequence", "32", "--batch", "2", "--gpus", "2"]
    command += ["--vocab-size", "300", "--set", "hidden_size=32", "--json", str(file)]
    out = run(capsys, *command, "--shard", "full", "--set", "recompute=true")
    metrics = Result.read(file).metrics
    assert f"{metrics['parameters']:,}" in out and out.count("GiB") == 6
    assert metrics["weights"] + metrics["optimizer"] < metrics["memory"]
