"""Checkpoints: complete or absent, and refused in one line if damaged."""

import errno
import json
import random

import numpy
import pytest
import torch
from tiny_training import tiny_model

from nestling.core.error import UserError
from nestling.train import checkpoint
from nestling.train.checkpoint import (
    checkpoint_path,
    flatten,
    keep_newest,
    load_model_tensors,
    model_tensors,
    random_state,
    read_checkpoint,
    read_newest,
    set_random_state,
    unflatten,
    write_checkpoint,
)

TREE = {
    "model": {"a.weight": torch.arange(6.0).view(2, 3), "empty": torch.zeros(2, 0, 3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.95)}]},
    "memory": None,
    "run": {"step": 3, "name": "x", "rows": [None, [1, 2]], "mask": torch.tensor([True, False])},
}


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_random_tree_round_trip():
    record, tensors = flatten(TREE)
    assert equal(unflatten(json.loads(json.dumps(record)), tensors), TREE)


def test_round_trip(tmp_path):
    path = write_checkpoint(checkpoint_path(tmp_path, 3), TREE)
    assert equal(read_checkpoint(path), TREE)


def test_tensor_and_its_view_can_be_saved_together(tmp_path):
    whole = torch.arange(6.0)
    path = write_checkpoint(checkpoint_path(tmp_path, 1), {"x": {"a": whole, "b": whole[2:]}})
    assert torch.equal(read_checkpoint(path)["x"]["b"], whole[2:])


@pytest.mark.parametrize("file", ["model.safetensors", "run.safetensors", "record.json"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_damaged_checkpoint_is_refused_in_one_line(tmp_path, file, harm):
    path = write_checkpoint(checkpoint_path(tmp_path, 3), TREE)
    content = (path / file).read_bytes()
    if harm == "gone":
        (path / file).unlink()
    else:
        middle = len(content) // 2
        tail = b"" if harm == "cut" else b"\x00" + content[middle + 1 :]
        (path / file).write_bytes(content[:middle] + tail)
    with pytest.raises(UserError, match="cannot be read.*delete it") as found:
        read_checkpoint(path)
    assert "\n" not in str(found.value)


def test_newer_format_is_refused(tmp_path):
    path = write_checkpoint(checkpoint_path(tmp_path, 3), TREE)
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        read_checkpoint(path)


def test_newest_intact_checkpoint_is_read(tmp_path):
    """Bit flips, truncations and deletions at 200 random places are detected or harmless."""
    draw = random.Random(0)
    before = write_checkpoint(checkpoint_path(tmp_path, 3), TREE | {"memory": "before"})
    path = write_checkpoint(checkpoint_path(tmp_path, 4), TREE)
    files = {file: file.read_bytes() for file in path.iterdir()}
    passed_over = 0
    for _ in range(200):
        file, told = draw.choice(sorted(files)), []
        content = bytearray(files[file])
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        file.write_bytes(content if draw.random() < 0.7 else content[:place])
        found = read_newest(tmp_path, told.append)
        assert found is not None
        if found[0] == before:
            assert len(told) == 1 and str(path) in told[0] and "\n" not in told[0]
            assert equal(found[1], TREE | {"memory": "before"})
            passed_over += 1
        else:
            assert not told and equal(found[1], TREE)
        file.write_bytes(files[file])
    assert passed_over > 150
    for file in files:
        file.unlink()
    (before / "record.json").unlink()
    with pytest.raises(UserError, match="step-00000003 cannot be read"):
        read_newest(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_full_disk_keeps_only_the_earlier_checkpoint(tmp_path, monkeypatch, number):
    path = write_checkpoint(checkpoint_path(tmp_path, 3), TREE)

    def refuse(*arguments, **options):
        raise OSError(number, "no more")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    for target in (path, checkpoint_path(tmp_path, 4)):
        with pytest.raises(UserError, match="cannot save.*no more"):
            write_checkpoint(target, TREE)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert equal(read_checkpoint(path), TREE)


def test_full_device_is_reported(tmp_path):
    """A file in place of the folder: a real error of the system."""
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="cannot save"):
        write_checkpoint(checkpoint_path(tmp_path / "checkpoints", 1), TREE)


def test_rewriting_replaces_atomically(tmp_path):
    path = checkpoint_path(tmp_path, 3)
    write_checkpoint(path, TREE)
    write_checkpoint(path, {"run": {"step": 4}})
    assert read_checkpoint(path) == {"run": {"step": 4}}


def test_keep_newest_deletes_oldest_and_ignores_drafts(tmp_path):
    for step in (9, 10, 100):
        write_checkpoint(checkpoint_path(tmp_path, step), {"run": {}})
    (tmp_path / ".step-00000200.draft").mkdir()
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_global_rng_states_are_restored():
    state = random_state()
    record, tensors = flatten(state)
    state = unflatten(json.loads(json.dumps(record)), tensors)
    first = random.random(), numpy.random.normal(), torch.rand(3)
    set_random_state(state)
    second = random.random(), numpy.random.normal(), torch.rand(3)
    assert first[:2] == second[:2] and torch.equal(first[2], second[2])


def test_tied_weights_are_saved_once():
    model = tiny_model("transformer-tiny")
    assert model.lm_head.weight is model.backbone.embed_tokens.weight
    assert sum("embed" in name or "lm_head" in name for name in model_tensors(model)) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("transformer-tiny", {"num_hidden_layers": 2}),
        ("transformer-tiny", {"hidden_size": 64}),
        ("hope-attention-tiny", {}),
    ],
)
def test_loading_another_architecture_is_refused_without_changes(tmp_path, name, options):
    model = tiny_model("transformer-tiny")
    before = {key: tensor.clone() for key, tensor in model_tensors(model).items()}
    foreign = tiny_model(name, seed=1, **options)
    with pytest.raises(UserError, match="another architecture"):
        load_model_tensors(model, model_tensors(foreign), tmp_path)
    assert all(torch.equal(before[n], t) for n, t in model_tensors(model).items())
