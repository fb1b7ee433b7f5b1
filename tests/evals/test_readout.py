"""Answers decoded from the last position."""

import pytest
import torch
from readers import reader

from nestling.evals.fit import fresh, rows_of
from nestling.evals.readout import ask_readout, fit_readout, last, sines
from nestling.evals.run import Plan, measure
from nestling.tasks import TASKS
from nestling.train import TrainConfig

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 32}
CONFIG = TrainConfig(steps=150, batch_size=32, learning_rate=1e-2, weight_decay=0.0)


def test_readout_learns_from_the_last_position():
    task = TASKS.load("mad-compress").tiny()
    found = fresh("lstm-tiny", task, seed=0, segment=64, options=SMALL)
    readout, trained = fit_readout(found.model, task, rows_of(task, CONFIG), CONFIG)
    figures = ask_readout(found.model, readout, task, count=50)
    assert trained["last_loss"] < 0.8 * trained["first_loss"]
    assert figures["low_95"] > 1.3 * task.chance


def test_only_the_last_position_is_read():
    found = reader("hope-tiny")
    ids = torch.randint(258, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = found.model.lm_head(last(found.model, ids))
        torch.testing.assert_close(whole, found.model(ids).logits[:, -1])


def test_untrained_readout_has_no_score():
    figures = measure(reader("hope-tiny"), TASKS.load("mad-compress").tiny(), Plan())
    assert figures["score"] is None and "--fit" in figures["note"]


def test_sinusoids_distinguish_positions():
    table = sines(64, 16)
    assert table.shape == (64, 16) and torch.pdist(table).min() > 0.1
    assert table[0, 1::2].tolist() == pytest.approx([1.0] * 8)
