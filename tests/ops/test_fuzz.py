"""Whatever the shapes: nothing that reaches compiled code ends the process or is no number."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "fuzz.py"
FEW, MANY = 40, 2000


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["ops", "optimizers", "caches"])
def test_drawn_calls(kind, count):
    command = [sys.executable, str(PROGRAM), kind, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"ok {kind}")
