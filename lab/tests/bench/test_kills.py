"""Killing at random moments and resuming each time gives the same bits."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from nestling_lab.bench.kills import difference, kills, logged, reaches


def test_single_weight_or_loss_difference_is_detected(tmp_path):
    def left(name, weight, loss):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.tensor([2.0, weight])}, folder / "model.safetensors")
        (folder / "log.jsonl").write_text(json.dumps({"loss": loss}) + "\n")
        return folder

    one = left("one", 1.0, 4.0)
    assert difference(one, left("same", 1.0, 4.0)) == 0
    assert difference(one, left("weight", 1.5, 4.0)) == 0.25
    assert difference(one, left("loss", 1.0, 4.4)) == pytest.approx(0.1)


def test_kill_happens_at_a_logged_step(tmp_path):
    """Regardless of the start-up time; not if the process ends before."""
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    code = """open("log.jsonl", "a").write('{"step": 3}\\n{"st'); input()"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE)

    def running():
        return process.poll() is None

    assert reaches(running, tmp_path, 3)
    assert running()
    assert logged(tmp_path) == 3
    process.communicate(b"\n")
    assert not reaches(running, tmp_path, 4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks, shard", [(1, "none"), (2, "full")])
def test_killed_training_ends_identically(tmp_path, ranks, shard):
    small = {"preset": "transformer-tiny", "times": 3, "steps": 40, "quiet": True}
    found = kills(tmp_path, **small, ranks=ranks, shard=shard)
    assert len(found["killed_after_step"]) == 3
    pairs = zip(found["killed_after_step"], found["went_on_from_step"], strict=True)
    assert all(0 < step <= 40 and step - 11 < saved <= step for step, saved in pairs)
    assert found["seconds_until_all_ended"] < 60
    assert found["largest_difference"] < 1e-6
    assert ranks > 1 or found["equal_to_the_bit"] == found["runs"] > 0
