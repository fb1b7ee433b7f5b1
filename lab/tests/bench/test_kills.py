"""Killed at random moments, and gone on with each time: the same bits."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nestling_lab.bench.kills import difference, kills


def test_a_difference_of_one_weight_or_one_loss_is_seen(tmp_path):
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


@pytest.mark.slow
def test_a_killed_training_ends_as_one_that_was_left_alone(tmp_path):
    found = kills(tmp_path, preset="transformer-tiny", times=3, steps=40, quiet=True)
    assert len(found["killed_after_step"]) == 3
    assert found["equal_to_the_bit"] == found["runs"] > 0
