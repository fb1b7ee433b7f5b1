"""The same run on several processes: the curve, the checkpoints and the files of one."""

import json

import pytest
import torch
from cli_calls import run
from cli_training import train_arguments
from python_process import run_python
from safetensors.torch import load_file
from saving_ranks import killed, saves
from tiny_training import tiny_config, tiny_model, tiny_text
from training_ranks import commanded, launch, runs, stage
from variation import as_written

from nestling.core.error import UserError
from nestling.train import Run
from nestling.train.checkpoint import flatten, read_checkpoint, read_newest
from nestling.train.job import loader_of
from nestling.train.ranks import ALONE, Ranks, joined

# every family once, and every optimizer that works on whole matrices
KINDS = [
    {"model": "hope-tiny", "optimizer": "m3"},
    {"model": "hope-attention-tiny", "optimizer": "adamw", "accumulation": 2},
    {"model": "mamba2-tiny", "optimizer": "delta_momentum"},
    {"model": "transformer-tiny", "optimizer": "adamw"},
]
MUON = {"model": "transformer-tiny", "optimizer": "muon"}
SETTINGS = {"steps": 4, "batch_size": 4, "sequence_length": 32}


def written_by_each_process(path):
    """Both processes write a file of the checkpoint, and a change in either is detected."""
    files = sorted(path.iterdir())
    assert [file.name[:11] for file in files] == ["record.json", "shard-00001", "shard-00002"]
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-30] + b"?" + content[-29:])
        with pytest.raises(UserError, match="cannot be read.*delete it"):
            read_checkpoint(path)
        file.write_bytes(content)
    assert read_checkpoint(path)


def alike(one, other, steps=slice(None)):
    expected = pytest.approx([s for step in one["steps"][steps] for s in step], rel=1e-6)
    assert [s for step in other["steps"] for s in step] == expected
    if one["val_loss"] is not None:
        assert other["val_loss"] == pytest.approx(one["val_loss"], rel=1e-6)
        assert other["weights"] == pytest.approx(one["weights"], rel=1e-6)


@as_written
def test_two_then_four_processes_match_one(tmp_path):
    """Losses, gradient norms, held-out loss; a run that goes on with another number of ranks.

    Each process holds all weights, or two hold them between them, and go on as two times two; or
    each reads half of every row.
    """
    kinds = [*KINDS[:2], *(kind | {"shard": "full"} for kind in (*KINDS, MUON))]
    kinds += [KINDS[n] | {"divide": "sequence"} for n in (0, 2)]
    kinds[1] |= {"recompute": True}  # a single process does not do that
    kinds[5] |= {"recompute": True}
    whole = [SETTINGS | kind for kind in kinds]
    alone = {kind["optimizer"] + kind["model"]: kind | {"recompute": False} for kind in whole}
    alone = dict(zip(alone, runs(list(alone.values()), ALONE), strict=True))
    cut = [one | {"folder": str(tmp_path / str(i)), "until": 2} for i, one in enumerate(whole)]
    on = [one | {"until": 0, "resume": True} for one in cut]
    on = [one | ({"shard": "2"} if "shard" in one else {}) for one in on]
    on[2] |= {"until": 3}  # and then with one
    parts = {"model": "transformer-tiny", "steps": 4, "batch_size": 4, "shard": "full"}
    faults = [
        parts | {"optimizer": "deep_momentum"},
        parts | {"optimizer": "sgd", "learning_rate": 1e30, "folder": str(tmp_path / "bad")},
        parts | {"optimizer": "adamw", "until": 1, "folder": str(tmp_path / "taken")},
    ]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "checkpoints").write_text("a file where a folder should be")
    # some continue with four processes, the others with one
    started, four = stage(tmp_path, 2, cut + faults), stage(tmp_path, 4, on[1:4])
    started, (refused, broken, taken) = started[: len(cut)], started[len(cut) :]
    assert "DeepMomentum has state shared by many parameters" in refused["error"]
    assert "continue with a lower learning rate" in broken["error"]
    assert "cannot save" in taken["error"] and "choose a folder" in taken["error"]
    saved = read_newest(tmp_path / "bad" / "checkpoints")
    assert saved is not None and saved[1]["run"]["totals"]["step"] < 4
    written_by_each_process(saved[0])
    resumed = [*runs(on[:1], ALONE), *four, *runs(on[4:], ALONE)]
    last = runs([on[2] | {"until": 0}], ALONE)[0]
    resumed[2] = last | {"steps": resumed[2]["steps"] + last["steps"]}
    for kind, first, second in zip(whole, started, resumed, strict=True):
        steps = first["steps"] + second["steps"]
        alike(alone[kind["optimizer"] + kind["model"]], {"steps": steps, **_end(second)})
    assert len({round(one["steps"][-1][0], 6) for one in alone.values()}) == len(KINDS) + 1


@as_written
def test_sharded_model_is_saved_during_training(tmp_path):
    """Equal to a save that stops training; errors are raised; a kill leaves the previous one."""
    found = stage(tmp_path, 2, tmp_path, saves)
    with pytest.raises(AssertionError):
        stage(tmp_path, 2, tmp_path, killed)
    assert (found["before_it_went_on"], found["then"], found["failed"]) == (False, True, True)
    assert "cannot save" in found["error"] and "choose a folder" in found["error"]
    names = sorted(file.name for file in (tmp_path / "at-once").iterdir())
    once, beside = (read_checkpoint(tmp_path / name) for name in ("at-once", "beside"))
    (record, tensors), (other, others) = flatten(once), flatten(beside)
    assert record == other and len(tensors) == len(others) > 50
    assert all(torch.equal(others[name], x) for name, x in tensors.items())
    assert [name[:11] for name in names] == ["record.json", "shard-00001", "shard-00002"]
    left = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert left == [".step-00000004.together", "step-00000002"]
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] >= 4  # it continued during the save
    alone = {"model": "transformer-tiny", "optimizer": "m3", "batch_size": 4, "steps": 6}
    on = alone | {"folder": str(tmp_path / "killed"), "resume": True}
    whole, resumed = runs([alone, on], ALONE)
    assert len(resumed["steps"]) == 4
    alike(whole, resumed, slice(2, None))


@pytest.mark.slow
def test_every_sharded_optimizer_and_family_matches_one_process(tmp_path):
    """On two processes replicated and sharded, on four as two replicas of two shards."""
    names = [kind["model"] for kind in KINDS]
    wanted = [
        {"model": name, "optimizer": optimizer, "steps": 20, "batch_size": 4}
        for name in names
        for optimizer in ("adamw", "m3", "delta_momentum")
    ]
    alone = runs(wanted, ALONE)
    parts = [one | {"shard": "full"} for one in wanted]
    pairs = [one | {"shard": "2"} for one in wanted]
    two, four = stage(tmp_path, 2, wanted + parts), stage(tmp_path, 4, pairs)
    for kind, expected, found in zip(wanted + parts + pairs, alone * 3, two + four, strict=True):
        print(kind)
        alike(expected, found)


def _end(run):
    return {"val_loss": run["val_loss"], "weights": run["weights"]}


def under_torchrun(place, command):
    """The output of the command started by torchrun in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    return run_python(*launcher, "-m", "nestling", *command).stdout


def as_torchrun(place, command):
    """The same started here, with the variables that torchrun sets."""
    launch(2, commanded, place, command)
    return "".join((place / f"told.{i}").read_text() for i in range(2))


@as_written
@pytest.mark.parametrize("way", [as_torchrun, pytest.param(under_torchrun, marks=pytest.mark.slow)])
def test_torchrun_writes_the_same_files_as_one_process(tmp_path, capsys, way):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i} and {i + 1} are {2 * i + 1}." for i in range(400)))

    def command(name, *more):
        words = ("--corpus", text, "--steps", 3, *more)
        return train_arguments(tmp_path / name, *words, preset="transformer-tiny")

    told = way(tmp_path, command("two", "--shard", "full"))
    assert told.count("val_loss") == 1  # told once
    run(capsys, *command("one"))
    two, one = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    )
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-4)
    assert two[-1]["val_loss"] == pytest.approx(one[-1]["val_loss"], rel=1e-4)
    names = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("two", "one")]
    assert names[0] == names[1]
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, x in one.items():
        assert torch.dist(two[name], x) < 1e-3 * x.norm()
    about = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("two", "one")]
    assert about[0] == about[1]


def test_indivisible_batch_is_refused(monkeypatch):
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3 processes"):
        Ranks(0, 3).check(4, 64)
    with pytest.raises(UserError, match="64 tokens cannot be shared by 3 processes"):
        Ranks(0, 3, sequence=True).check(3, 64)
    with pytest.raises(UserError, match="4 processes cannot be divided into groups of 3"):
        Ranks(0, 4).over("3")
    with pytest.raises(UserError, match="--shard is 'half'; choose none, full, hybrid or a num"):
        Ranks(0, 4).over("half")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(UserError, match="RANK is not set; start the command with torchrun"),
        joined(),
    ):
        raise AssertionError


def test_optimizer_that_captures_inputs_is_refused():
    model, config = tiny_model("transformer-tiny"), tiny_config()
    with pytest.raises(UserError, match="delta_gd needs the inputs of all rows"):
        Run(model, loader_of(tiny_text(), model, config), config, "delta_gd", Shared(0, 2))


class Shared(Ranks):
    """One of several, whose model is called as it is."""

    def module(self, model):
        return model


def test_every_row_is_read_by_one_process():
    shares = [range(12)[Ranks(rank, 4).rows(12)] for rank in range(4)]
    assert [row for share in shares for row in share] == list(range(12))
