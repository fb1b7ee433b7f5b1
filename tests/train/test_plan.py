"""A plan: longer rows and more layers than are read, shares of ranks, and what cannot be."""

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
    return configure(name, vocab_size=300, **SIZE | FAMILIES[name] | options)


def test_what_is_not_read_follows_from_what_is(monkeypatch):
    config = tiny(num_hidden_layers=3)
    read = cost(config, 256)
    monkeypatch.setattr(sketch, "LONGEST", 128)
    followed = cost(config, 256)
    for part in ("flops", "held", "state"):
        assert getattr(followed, part) == pytest.approx(getattr(read, part), rel=0.02)


def test_gradients_at_the_peak_are_not_extrapolated(monkeypatch):
    read = {64: Cost(64, 640, 0, 8), 128: Cost(128, 1280, 300, 8), 256: Cost(256, 2560, 40, 8)}
    monkeypatch.setattr(sketch, "_at", lambda config, length: read[length])
    found = cost(tiny(), 4096)
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
    # M3: two numbers a weight, and of each slow memory three, one of them half as wide
    assert 4 < parts.optimizer / parts.gradients < 5
    with pytest.raises(UserError, match="3 rows on 2 GPUs"):
        plan(tiny(), batch=3, gpus=2)
    with pytest.raises(UserError, match="utilisation"):
        plan(tiny(), utilisation=0)


def test_the_command_tells_and_writes(tmp_path, capsys):
    file = tmp_path / "plan.json"
    command = ["plan", "transformer-tiny", "--sequence", "32", "--batch", "2", "--gpus", "2"]
    command += ["--vocab-size", "300", "--set", "hidden_size=32", "--json", str(file)]
    out = run(capsys, *command, "--shard", "full")
    metrics = Result.read(file).metrics
    assert f"{metrics['parameters']:,}" in out and out.count("GiB") == 6
    assert metrics["weights"] + metrics["optimizer"] < metrics["memory"]
