"""A model trained through the command line, shared by the tests that use it."""

import json

import pytest
from cli_training import train_arguments

from nestling.cli.main import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a trained model; beside it train.json with its Result."""
    out = tmp_path_factory.mktemp("trained") / "model"
    arguments = train_arguments(
        out, "--steps", "6", "--json", str(out.parent / "train.json"),
        preset="hope-tiny", num_kv_heads=None,
    )  # fmt: skip
    assert main(arguments) == 0
    return out


@pytest.fixture
def figures(trained):
    """The metrics of the training that made ``trained``."""
    return json.loads((trained.parent / "train.json").read_text())
