"""Training by a published protocol."""

import dataclasses

import pytest
import torch

from nestling.core.error import UserError
from nestling.evals.fit import fresh
from nestling.evals.protocol import Passes, Watch, follow, measured, protocol_of, trained
from nestling.evals.run import make_task, plan_of, run_tasks, variants
from nestling.tasks import TASKS

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 16}
RECALL = {"vocab_size": 8, "length": 16, "train_examples": 10}
WORDS = {"longest": 12, "beyond": 18, "train_examples": 10}


def test_epoch_covers_the_rows_with_a_smaller_last_batch():
    task = make_task("mad-recall", RECALL)
    loader = Passes(task, rows=10, batch_size=4, seed=1)
    assert loader.steps == 3
    passes = [[next(loader).input_ids for _ in range(3)] for _ in range(2)]
    assert [len(batch) for batch in passes[0]] == [4, 4, 2]
    first, second = (torch.cat(batches).tolist() for batches in passes)
    assert first != second and sorted(first) == sorted(second)
    again = Passes(task, rows=10, batch_size=4, seed=1)
    again.load_state_dict({"batches": 3})
    assert torch.equal(next(again).input_ids, passes[1][0])
    fewer = Passes(
        make_task("mad-recall", {**RECALL, "train_examples": 800}), rows=800, batch_size=128, seed=0
    )
    assert fewer.steps * 200 == 1400  # steps of the published training of so few rows


def watch_of(protocol, answers):
    """The result kept by a watch whose model gets one more row right each epoch."""
    task = TASKS.load("formal-parity").tiny()
    watch = Watch(task, protocol, rows=10, seed=0, steps=2)
    labels = {len(one.input_ids[0]): one.labels for one in watch.examples.values()}
    ended = None
    for step in range(1, 2 * len(answers) + 1):
        right = answers[(step - 1) // 2]

        def answer(ids, right=right):
            wanted = labels[ids.shape[1]]
            return torch.where(torch.arange(10)[:, None] < right, wanted, 0)

        if watch(step, answer):
            ended = step
            break
    return watch, ended


def test_early_stop_and_best_epoch():
    protocol = TASKS.load("formal-parity").protocol
    watch, ended = watch_of(protocol, [3, 7, 5])
    assert ended is None and (watch.passes, watch.best, watch.score) == (3, 2, 0.7)
    found = watch.figures()
    assert list(found) == ["bin 0", "bin 1"] and found["bin 1"]["score"] == 0.7
    assert watch_of(protocol, [3, 10, 10])[1] == 4
    last, _ = watch_of(dataclasses.replace(protocol, keep="last"), [3, 7, 5])
    assert (last.best, last.score) == (3, 0.5)


def test_one_training_measures_both_bins():
    task = make_task("formal-parity", WORDS)
    parts = measured(task, task.protocol)
    assert {name: one.config.bin for name, one in parts.items()} == {"bin 0": 0, "bin 1": 1}
    plan = plan_of(
        ["formal-parity"], WORDS | SMALL | {"epochs": 2}, count=4, protocol=True, sweep=True
    )
    assert list(variants("formal-parity", plan)) == [""]
    said = []
    found = run_tasks("lstm-tiny", ["formal-parity"], plan, say=said.append)
    figures = found.metrics["tasks"]["formal-parity"]
    assert list(figures["parts"]) == ["bin 0", "bin 1"] and len(said) == 1
    part = figures["parts"]["bin 1"]
    assert part["count"] == 4 and part["epochs"] <= 2 and part["learning_rate"] == 1e-4
    assert tuple(part["protocol"]["betas"]) == (0.9, 0.995)


@pytest.mark.parametrize("name", ["mad-recall", "mad-compress"])
def test_grid_search_keeps_the_best(name):
    options = {**RECALL, "vocab_size": 8}
    task = make_task(name, options)
    made = []

    def make():
        made.append(fresh("lstm-tiny", task, seed=0, segment=64, options=SMALL))
        return made[-1]

    found = follow(make, task, settings={"epochs": 2, "batch_size": 4}, rows=12)
    (figures,) = found.values()
    pairs = [(one["learning_rate"], one["weight_decay"]) for one in figures["tried"]]
    assert pairs == [(r, d) for r in (1e-4, 5e-4, 1e-3) for d in (0.0, 0.1)] and len(made) == 6
    assert figures["score"] == pytest.approx(max(one["score"] for one in figures["tried"]))
    assert figures["count"] == 12 and figures["protocol"]["epochs"] == 2
    weights = [next(reader.model.parameters()) for reader in made]
    assert not torch.equal(weights[0], weights[2]), "one model was trained on"


def test_diverged_training_has_no_score(monkeypatch):
    task = make_task("mad-recall", RECALL)

    def make():
        reader = fresh("lstm-tiny", task, seed=0, segment=64, options=SMALL)
        if broken.pop(0):
            torch.nn.init.constant_(next(reader.model.parameters()), float("nan"))
        return reader

    settings = {"epochs": 1, "weight_decay": 0.0}
    broken = [True, False, True]
    (figures,) = follow(make, task, settings=settings, rows=5).values()
    assert [one["score"] is None for one in figures["tried"]] == [True, False, True]
    assert figures["learning_rate"] == 5e-4
    broken = [True] * 3
    with pytest.raises(UserError, match="all trainings diverged"):
        follow(make, task, settings=settings, rows=5)


def test_settings_and_user_errors():
    task = make_task("mad-recall", RECALL)
    set_ = protocol_of(task, {"epochs": 3, "learning_rate": 1e-2})
    assert set_.epochs == 3 and set_.learning_rates == (1e-2,) and set_.weight_decays == (0.0, 0.1)
    with pytest.raises(UserError, match="whole number"):
        protocol_of(task, {"epochs": 0.5})
    with pytest.raises(UserError, match="no published protocol"):
        protocol_of(make_task("recall", {}), {})
    with pytest.raises(UserError, match="one way to train"):
        plan_of(["mad-recall"], {}, fit=1, protocol=True)
    with pytest.raises(UserError, match="set epochs"):
        plan_of(["mad-recall"], {"steps": 5}, protocol=True)
    with pytest.raises(UserError, match="from scratch"):
        run_tasks(".", ["mad-recall"], plan_of(["mad-recall"], {}, protocol=True))


def test_protocols_train_with_one_rate(monkeypatch):
    """As published, whatever the default of a run."""
    task = make_task("mad-recall", RECALL)
    protocol, given = protocol_of(task, {"epochs": 1, "batch_size": 5}), []
    monkeypatch.setattr(
        "nestling.evals.protocol.train", lambda model, loader, config, **more: given.append(config)
    )
    reader = fresh("transformer-tiny", task, seed=0, segment=32, options=SMALL)
    for more in ({}, {"rates_by_role": True}):
        trained(reader, task, protocol, {"learning_rate": 1e-3, **more}, seed=0, rows=5, quiet=True)
    assert [config.rates_by_role for config in given] == [False, True]
