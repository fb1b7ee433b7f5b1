"""Figures from plain numbers."""

import math
import xml.etree.ElementTree as tree

import pytest

from nestling.report import plots

STRETCHES = [{"start": 0, "end": 16, "loss": 3.0}, {"start": 16, "end": 32, "loss": 2.0}]
DRAWN = {
    "loss": lambda: plots.loss_curves({"hope": [{10: 3.0, 20: 2.0}, {10: 3.2, 20: 2.1}]}),
    "position": lambda: plots.perplexity_by_position({"hope": [STRETCHES, STRETCHES[:1]]}),
    "length": lambda: plots.accuracy_by_length({"hope": {64: 1.0, 128: None}, "b": {64: 0.25}}),
    "forgetting": lambda: plots.forgetting_matrix([[0.75], [0.5, 1.0]], ["first", "second"]),
    "frequency": lambda: plots.accuracy_by_frequency({"hope": [{1: 0.9, 16: 0.5}]}),
    "cost": lambda: plots.cost_by_length({"hope": [{512: 900.0}]}, y_label="tokens a second"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_plots_are_well_formed_titled_and_deterministic(name):
    text = DRAWN[name]()
    assert text == DRAWN[name]() and tree.fromstring(text).tag.endswith("svg")
    assert "hope" in text or "first" in text


def test_band_is_the_interval_where_all_runs_have_points():
    curve = plots.band([{1: 1.0, 2: 5.0}, {1: 3.0}])
    assert (curve.x, curve.y) == ([1], [2.0])
    assert curve.low[0] == pytest.approx(2 - 12.706, abs=1e-3)
    assert plots.band([{1: 1.0}]).low is None and plots.bands({"a": [], "b": [{}]}) == {}


def test_diverged_run_ends_the_mean_and_is_named():
    models = {"hope": [{1: 3.0, 2: math.nan}, {1: 2.0, 2: 1.0}], "b": [{1: math.inf}]}
    found = plots.bands(models)
    assert list(found) == ["hope (1 of 2 diverged)"] and found.popitem()[1].x == [1]
    assert "diverged" in plots.forgetting_matrix([[math.nan]], ["first"])
    steep = plots.perplexity_by_position({"hope": [[{"start": 0, "end": 16, "loss": 1e4}]]})
    assert tree.fromstring(steep).tag.endswith("svg")


def test_heatmap_shows_numbers_and_leaves_unknown_cells_empty():
    text = DRAWN["forgetting"]()
    assert text.count("0.75") == text.count("0.50") == 1 and "nan" not in text
    assert "128" in DRAWN["length"]()
