"""Training under torch.compile: the same losses and gradients as without it."""

import pytest
from apart import run_apart
from compiled_training import main

from nestling.models.presets import FAMILIES

pytestmark = pytest.mark.compile


@pytest.mark.parametrize(
    ("length", "families"),
    [
        pytest.param(2, ["together"], id="some"),
        pytest.param(9, [*FAMILIES, "trainer"], marks=pytest.mark.slow, id="all"),
    ],
)
def test_compiled_training_matches_eager(length, families):
    run_apart(main, length, families)
