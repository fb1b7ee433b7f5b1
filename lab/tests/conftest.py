"""Models small enough for tests of counts to take a second."""

import pytest

from nestling.models import presets


@pytest.fixture
def narrow(monkeypatch):
    """Presets of the size "tiny" have one layer of width 64."""
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_heads": 2}
    monkeypatch.setitem(presets.SIZES, "tiny", shape)
