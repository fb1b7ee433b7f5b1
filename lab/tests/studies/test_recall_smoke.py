"""Both arms differ only in the writes, and reports match the answers."""

import pytest
import torch

from nestling.core.result import Result
from nestling.evals.questions import Questions, as_batch, unseen_examples
from nestling.tasks import IGNORED
from nestling.tasks.recall import Recall
from nestling.train import TrainConfig
from nestling_lab.studies.recall_smoke import RecallSmoke

STUDY = RecallSmoke()


def test_arms_differ_only_in_writes():
    cells = STUDY.cells({})
    assert {cell.seed for cell in cells} == set(STUDY.config.seeds) and len(cells) == 6
    for on, off in zip(cells[0::2], cells[1::2], strict=True):
        assert on.config["overrides"]["writes"] and not off.config["overrides"]["writes"]
        same = {**on.config["overrides"], "writes": False}
        assert on.config | {"overrides": same} == off.config


def test_queries_wait_two_periods():
    from nestling.models.factory import configure

    model = configure(STUDY.config.preset, **STUDY.config.overrides)
    memory = model.memory_configs()["self_titans"]
    assert STUDY.config.task.period >= max(memory.period, memory.projection_period)
    assert model.num_hidden_layers == 2
    assert STUDY.config.task.keys == STUDY.config.task.values == 16


def test_batches_are_fresh_sequences_and_resumable():
    task = Recall.tiny()
    loader = Questions(task, batch_size=4, seed=1)
    first, second = next(loader), next(loader)
    assert first.reset[:, 0].all() and not first.reset[:, 1:].any() and first.mask.all()
    assert not torch.equal(first.input_ids, second.input_ids)
    other = Questions(task, batch_size=4, seed=1)
    other.load_state_dict({"batches": 1})
    assert torch.equal(next(other).input_ids, second.input_ids)


def test_test_sequences_are_not_in_training():
    task = Recall()
    loader = Questions(task, batch_size=50, seed=0)
    seen = {tuple(row) for _ in range(20) for row in next(loader).input_ids.tolist()}
    test = unseen_examples(task, seed=0, count=200)
    assert not seen & {tuple(row) for row in test.input_ids.tolist()}
    assert (as_batch(test).labels != IGNORED).sum() == 200 * task.config.keys


def test_status_lists_the_accuracies_seed_by_seed():
    done = {}
    for arm, accuracy in (("on", 0.75), ("off", 0.0625)):
        for seed in (0, 2):
            cell = STUDY.cell(arm, seed)
            metrics = {"accuracy": accuracy + seed / 100, "diverged": False}
            done[cell.name] = Result(name=cell.name, config=cell.config, metrics=metrics, seed=seed)
    metrics = STUDY.find(done).metrics
    assert metrics["accuracy_writes_on"] == [0.75, 0.77]
    assert metrics["accuracy_writes_off"] == [0.0625, 0.0825]
    assert metrics["seeds_writes_on"] == [0, 2]
    assert STUDY.find({}).metrics["accuracy_writes_on"] == []


def test_diverged_run_is_not_counted_as_zero():
    done = {}
    for seed, metrics in enumerate(({"accuracy": 0.75, "diverged": False}, {"diverged": True})):
        cell = STUDY.cell("on", seed)
        done[cell.name] = Result(name=cell.name, config=cell.config, metrics=metrics, seed=seed)
    finding = STUDY.find(done)
    assert finding.metrics["accuracy_writes_on"] == [0.75, None]
    means, runs = (part.tables[0].rows for part in (finding.shown, finding.sections[-1]))
    assert means[0][2] == "0.75 (1 of 2 diverged)" and runs[1] == ("writes on", 1, "diverged")


@pytest.mark.parametrize("arm", ["on", "off"])
def test_small_study_runs(arm):
    task = Recall.Config(keys=3, values=4, period=4)
    train = TrainConfig(
        steps=2, batch_size=4, sequence_length=Recall(task).length, carry=False, save_every=0
    )
    small = {"num_hidden_layers": 1, "hidden_size": 32, "num_heads": 2, "period": 4}
    config = RecallSmoke.Config(
        overrides={**small, "projection_period": 4},
        task=task,
        train=train,
        test_count=8,
    )
    study = RecallSmoke(config)
    metrics = study.run(study.cell(arm, 0)).metrics
    assert 0 <= metrics["accuracy"] <= 1 and metrics["chance"] == 0.25
