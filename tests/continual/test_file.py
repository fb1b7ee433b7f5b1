"""Memory files: exact, small, and never misread."""

import json
import random

import pytest
import safetensors.torch
import torch
from learner_states import equal
from tiny_bases import tiny_base

from nestling.continual import ContinualLearner, Options
from nestling.continual.file import KIND, NEWEST, PLAIN, MemoryFile, read_memory, write_memory
from nestling.core.error import UserError
from nestling.models.pretrained import parse_levels


@pytest.mark.parametrize(("at", "end"), [(5, 40), (32, 72), (77, 100)])
def test_save_and_load_resumes_identically(new_learner, ids, tmp_path, at, end):
    """Bitwise, also within periods and segments."""
    whole, first, then = new_learner(), new_learner(), new_learner()
    whole.read_tokens(ids[:at])
    first.read_tokens(ids[:at])
    then.load(first.save(tmp_path / "memory"))
    assert equal(then, first)
    for learner in (whole, then):
        learner.read_tokens(ids[at:end], begins=False)
    assert equal(then, whole)
    then.save(tmp_path / "a")
    whole.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["llama"])
def test_file_holds_changed_tensors_only(new_learner, ids, tmp_path):
    learner = new_learner()
    empty = read_memory(learner.save(tmp_path / "memory"))
    assert not empty.tensors
    learner.read_tokens(ids[:8])
    names = set(read_memory(learner.save(tmp_path / "memory")).tensors)
    moved = {name for name in names if ".moved." in name}
    assert moved == {f"level.1.moved.{name}" for name in learner.parameters[1]}


@pytest.mark.parametrize("kind", ["llama"])
@pytest.mark.parametrize(("storage", "bits"), [("16bit", 10), ("rank:100", 10)])
def test_half_precision_keeps_what_was_learned(new_learner, ids, tmp_path, storage, bits):
    learner, other = new_learner(), new_learner()
    learner.read_tokens(ids)
    exact = learner.save(tmp_path / "exact").stat().st_size
    small = learner.save(tmp_path / "small", storage=storage)
    assert small.stat().st_size < exact / 2
    other.load(small)
    for one, two in zip(learner.state.levels, other.state.levels, strict=True):
        for a, b in zip(one.moved, two.moved, strict=True):
            assert (a - b).abs().max() <= a.abs().max() * 2.0**-bits
    other.read_tokens(ids)
    assert read_memory(other.save(tmp_path / "again")).tensors


def test_low_rank_is_the_best_approximation(models, ids, tmp_path):
    learner = ContinualLearner(models["llama"], levels=parse_levels("8:1e-2"))
    learner.read_tokens(ids)
    errors = []
    for rank in (1, 3, 8):
        other = learner.fork()
        other.load(learner.save(tmp_path / "small", storage=f"rank:{rank}"))
        errors.append(0.0)
        pairs = zip(learner.state.levels[0].moved, other.state.levels[0].moved, strict=True)
        for a, b in pairs:
            values = torch.linalg.svdvals(a[0].double())
            best = values[rank:].square().sum().sqrt()
            found = (a - b).double().square().sum().sqrt()
            assert found <= best + 1e-3 * values.square().sum().sqrt()
            errors[-1] += float(found)
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(UserError, match="rank:R"):
        learner.save(tmp_path / "x", storage="rank:0")


def test_memory_of_another_base_is_refused(models, ids, tmp_path):
    levels = parse_levels("8")
    learner = ContinualLearner(models["llama"], levels=levels)
    learner.read_tokens(ids[:20])
    file = learner.save(tmp_path / "memory")
    other = ContinualLearner(tiny_base("llama", seed=1), levels=levels)
    state = other.state
    with pytest.raises(UserError, match="another base model"):
        other.load(file)
    assert other.state is state
    for changed, message in (
        ({"levels": parse_levels("16")}, "other levels"),
        ({"levels": levels, "options": Options(window=32)}, "window"),
        ({"levels": levels, "options": Options(segment=4)}, "segment"),
    ):
        with pytest.raises(UserError, match=message):
            ContinualLearner(models["llama"], **changed).load(file)


def test_newer_truncated_and_missing_files_are_refused(models, tmp_path):
    learner = ContinualLearner(models["llama"], levels=parse_levels("8"))
    file = learner.save(tmp_path / "memory")
    about = {**read_memory(file).about, "format": NEWEST + 1}
    header = {KIND: json.dumps({"about": about, "sha256": "of some other kind"})}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "newer", header)
    content = file.read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name, message in {
        "newer": "upgrade",
        "cut": "truncated",
        "empty": "truncated",
        "foreign": "not a memory file",
        "nothing": "there is no memory",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            learner.load(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read_unchanged(models, ids, tmp_path, count):
    """With one to three changed bytes or a truncation, another memory is never loaded."""
    learner = ContinualLearner(models["llama"], levels=parse_levels("8,32"))
    learner.read_tokens(ids[:50])
    file = learner.save(tmp_path / "memory")
    content = file.read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    draw, broken, refused = random.Random(0), tmp_path / "broken", 0
    for number in range(count):
        changed = bytearray(content)
        if number % 10 == 0:
            changed = changed[: draw.randrange(len(changed))]
        for _ in range(draw.randint(1, 3)):
            # the header is short but matters most, so half of the changes are there
            end = min(header, len(changed)) if draw.random() < 0.5 else len(changed)
            if end:
                changed[draw.randrange(end)] ^= draw.randint(1, 255)
        broken.write_bytes(changed)
        other = learner.fork()
        other.reset()
        state = other.state
        try:
            other.load(broken)
        except UserError as error:
            assert "\n" not in str(error) and other.state is state
            refused += 1
            continue
        assert equal(other, learner)
    assert refused > 0.9 * count


def test_failed_write_keeps_the_old_file(tmp_path, models):
    learner = ContinualLearner(models["llama"], levels=parse_levels("8"))
    with pytest.raises(UserError, match="cannot write"):
        learner.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_file_round_trip(tmp_path):
    memory = MemoryFile({"a": [1, None, "b"]}, {"x": torch.arange(3.0), "y": torch.zeros(0)})
    again = read_memory(write_memory(tmp_path / "m", memory))
    assert again.about == {**memory.about, "format": PLAIN}
    assert all(torch.equal(again.tensors[name], memory.tensors[name]) for name in memory.tensors)
