"""Whatever the shapes: compiled code neither ends the process nor gives non-finite values."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "fuzz.py"
KINDS = ("ops", "optimizers", "caches")


def draw_calls(count, *kinds):
    command = [sys.executable, str(PROGRAM), str(count), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", f"{kind}:"] for kind in kinds
    ]


def test_a_few_drawn_calls_of_every_kind():
    draw_calls(40, *KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_calls(kind):
    draw_calls(2000, kind)
