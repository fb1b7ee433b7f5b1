"""Device reads of a training step, each of which waits for the device."""

import contextlib

import pytest
import torch
from device_reads import Reads
from tiny_training import FAMILIES, SIZE, tiny_config

from nestling.data import Batch
from nestling.models import configure
from nestling.models.hf import HopeForCausalLM
from nestling.train import Run


class Text:
    """The same batch again: documents end within rows, and one row ends with padding."""

    def __init__(self, rows=4, length=64):
        ids = torch.arange(rows * length).view(rows, length) % 250
        reset, mask = torch.zeros_like(ids).bool(), torch.ones_like(ids).bool()
        reset[1, 30], mask[2, 50:] = True, False
        self.batch = Batch(ids, ids, reset, mask)

    def __iter__(self):
        return self

    def __next__(self):
        return self.batch

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("name, optimizer", [("mamba2-tiny", "adamw"), ("transformer-tiny", "m3")])
def test_step_syncs_loss_and_norm_once(name, optimizer, monkeypatch):
    """Apart from reads by attention to drop columns, once per layer and batch."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    config = configure(name, vocab_size=258, **SIZE | FAMILIES[name])
    with torch.device("meta"):
        model = HopeForCausalLM(config)
    run = Run(model, Text(), tiny_config(accumulation=2), optimizer)
    for _ in range(2):
        with Reads() as reads:
            run.step()
        own = [places[0] for places in reads.places if not places[0].startswith("memories/")]
        assert [place.partition(":")[0] for place in own] == ["train/run.py"]
        layers = config.num_hidden_layers if "transformer" in name else 0
        assert len(reads.places) - 1 == 2 * layers
