"""Training models with in-context levels: they learn, and resume bitwise."""

import pytest
import torch
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.train import train
from nestling.train.job import held_out_of, loader_of

KINDS = {
    "local": {"pattern": ("attention", "cms_context"), "objective": "local"},
    "nested": {"pattern": ("attention", "cms_nested"), "objective": "local"},
    "ntp": {"pattern": ("attention", "cms_context"), "objective": "ntp"},
    "teach": {"pattern": ("attention", "cms_headwise"), "objective": "teach"},
}
SMALL = {"batch_size": 2, "sequence_length": 32}
every_kind = pytest.mark.parametrize("kind", KINDS)


def start(kind, directory=None, *, resume=False, after_step=None, **settings):
    options = {"periods": [16, 32], "learning_rate": 0.1} | KINDS[kind]
    model, text = tiny_model("hope-attention-tiny", **options), tiny_text()
    config = tiny_config(**settings)
    metrics = train(
        model,
        loader_of(text, model, config),
        config,
        directory=directory,
        held_out=held_out_of(text.take(6), model, config),
        resume=resume,
        quiet=True,
        after_step=after_step,
    )
    return model, metrics


@every_kind
def test_loss_falls(kind):
    _, metrics = start(kind, steps=24, learning_rate=1e-2, **SMALL)
    assert metrics["val_loss"] < 0.6 * metrics["first_loss"]


@every_kind
def test_resumed_run_is_bitwise_equal(tmp_path, kind):
    whole, expected = start(kind, tmp_path / "whole", steps=4, **SMALL)
    start(kind, tmp_path / "cut", steps=4, **SMALL, after_step=lambda run: run.totals.step == 2)
    torch.manual_seed(999)
    resumed, metrics = start(kind, tmp_path / "cut", steps=4, resume=True, **SMALL)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert metrics["val_loss"] == expected["val_loss"]
