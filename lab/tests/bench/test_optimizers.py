"""Optimizer benchmark: every entrant is measured at a small size."""

import pytest

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.optim import OPTIMIZERS
from nestling.optim.base import GradientMemory
from nestling_lab.bench.optimizers import ENTRANTS, optimizers

SMALL = {"layers": 1, "width": 8, "feed_forward": 12, "rounds": 2, "steps": 6}


def test_every_optimizer_of_the_table_is_an_entrant():
    ours = [n for n in OPTIMIZERS.names() if issubclass(OPTIMIZERS.load(n), GradientMemory)]
    assert all(any(entrant.startswith(name) for entrant in ENTRANTS) for name in ours)


def test_metrics_of_every_entrant():
    found = optimizers(**SMALL, rows=4, quiet=True)["optimizers"]
    assert list(found) == list(ENTRANTS)
    for figures in found.values():
        assert 0 < figures["fastest"] <= figures["seconds"] <= figures["slowest"]
        own = found[figures["reference"]]
        assert own["over_reference"] == 1 and own["reference"] == figures["reference"]
    # plus the step counters, which matter for a tiny model
    assert found["m3 (matrices)"]["bytes_per_parameter"] == pytest.approx(18, abs=0.2)
    assert found["delta_momentum, row"]["bytes_per_parameter"] == pytest.approx(4, abs=0.2)
    assert found["torch AdamW"]["bytes_per_parameter"] == pytest.approx(8, abs=0.2)


def test_the_verb_writes_a_result(tmp_path, capsys):
    path = tmp_path / "optim.json"
    options = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    assert main(["bench", "optim", *options, "--quiet", "--json", str(path)]) == 0
    assert "torch Muon" in capsys.readouterr().out
    assert Result.read(path).config["width"] == 8


def test_nothing_to_measure_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        optimizers(layers=0)
    with pytest.raises(UserError, match="unknown entrant"):
        optimizers(names=("adam",))
