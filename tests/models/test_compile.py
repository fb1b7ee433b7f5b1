"""Training under torch.compile: the same losses and gradients as without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nestling.models.presets import FAMILIES

pytestmark = pytest.mark.compile
PROGRAM = Path(__file__).parents[1] / "support" / "compiled_training.py"


@pytest.mark.parametrize(
    ("length", "families"),
    [
        pytest.param(2, ["together"], id="some"),
        pytest.param(9, [*FAMILIES, "trainer"], marks=pytest.mark.slow, id="all"),
    ],
)
def test_a_compiled_model_learns_as_the_same_without_compiling(length, families):
    command = [sys.executable, str(PROGRAM), str(length), *families]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-len(families) :] == [f"ok {family}" for family in families]
