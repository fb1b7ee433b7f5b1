"""Recipes: command lines parse, and every size can be sharded."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.run import get_args_parser
from torch.testing._internal.distributed.fake_pg import FakeStore

from nestling.cli.data import Command as Data
from nestling.cli.main import _parse
from nestling.cli.train import Command, settings
from nestling.models import configure
from nestling.models.hf import HopeForCausalLM
from nestling.models.presets import FAMILIES
from nestling.train.job import make_job
from nestling.train.ranks import Ranks
from nestling.train.sharding import UNUSED, Divided

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("340m", "760m", "1.3b")
SAMPLE = [("hope", size) for size in SIZES] + [("transformer", "760m"), ("mamba2", "340m")]


def words(place, *command, **variables):
    """The command started by a recipe: the words after LAUNCH's, or torchrun's."""
    place.mkdir(exist_ok=True)
    for name, does in (
        ("python", 'echo "$@"'),
        ("torchrun", 'echo "$@"'),
        ("srun", 'exec "$@"'),
        ("scontrol", "echo node0"),
    ):
        (place / name).write_text(f"#!/bin/sh\n{does}\n")
        (place / name).chmod(0o755)
    path = os.pathsep.join([str(place), os.environ["PATH"]])
    given = {"PATH": path, "TEXT": "stdlib", **variables}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
    return done.stdout.split()


def kubernetes():
    service, job = yaml.safe_load_all((ROOT / "recipes" / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]} | {"TEXT": "stdlib"}
    where = f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500"
    assert where in variables["LAUNCH"].split()
    return container["command"], variables


SLURM = {"SLURM_JOB_NODELIST": "n[0-3]", "SLURM_NNODES": "4", "SLURM_JOB_ID": "7"}
STARTED = {
    "one": (("recipes/pretrain.sh", "hope", "340m", "OUT", "--seed", "1"), {}, 1),
    "eight": (("recipes/eight_gpus.sh", "mamba2", "760m", "OUT"), {}, 8),
    "slurm": (("sh", "recipes/slurm.sbatch", "hope", "1.3b", "OUT"), SLURM, 32),
    "kubernetes": (*kubernetes(), 32),
}


@pytest.mark.parametrize("name", STARTED)
def test_recipe_commands_parse(tmp_path, name):
    command, variables, world = STARTED[name]
    started = words(tmp_path, *command, **variables)
    if world > 1:
        launch = get_args_parser().parse_args(started)
        assert int(launch.nnodes.split(":")[-1]) * int(launch.nproc_per_node) == world
        started = [launch.training_script, *launch.training_script_args]
        assert launch.module
    else:
        started = started[1:]
    assert started[:2] == ["nestling", "train"]
    read = _parse(Command, "train", started[2:])
    job = make_job(settings(read.set) | {"steps": read.steps}, preset=read.preset)
    config = job.train
    assert config.batch_size * config.accumulation * config.sequence_length == 2**19
    tokens = {"340m": 15e9, "760m": 30e9, "1.3b": 100e9}[read.preset.rpartition("-")[2]]
    assert config.steps * 2**19 == pytest.approx(tokens, rel=1e-4)
    Ranks(0, world).over("8" if read.shard == "hybrid" else read.shard).check(
        config.batch_size, config.sequence_length
    )


def test_recipe_data_commands_parse(tmp_path):
    started = words(tmp_path, "recipes/prepare.sh")
    read = _parse(Data, "data", started[3:])
    assert started[:3] == ["-m", "nestling", "data"]
    assert (read.source, read.vocab_size) == ("hf:HuggingFaceFW/fineweb-edu#text", 32000)


def divided(name):
    with torch.device("meta"):
        model = HopeForCausalLM(configure(name, vocab_size=32000))
    whole = {name: p.shape for name, p in model.named_parameters()}
    Divided(model, world=8, over=8, device=torch.device("cpu"))
    for name, parameter in model.named_parameters():
        assert parameter.shape == whole[name]
        assert parameter.is_meta and len(parameter.to_local()) == -(-len(parameter) // 8), name


@pytest.fixture
def eight():
    if not hasattr(FSDPModule, UNUSED):
        pytest.skip(f"torch {torch.__version__} is too old for --shard")
    distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("family, size", SAMPLE)
def test_recipe_models_shard_over_eight_on_meta(eight, family, size):
    divided(f"{family}-{size}")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_size_shards_on_meta(eight, family):
    for size in SIZES:
        divided(f"{family}-{size}")
