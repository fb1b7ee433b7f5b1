"""Class-incremental learning: levels are written and answered with, the page."""

import math

import pytest
import torch
from small_facts import tiny_reader

from nestling.core.result import Result
from nestling.tasks.incremental import Incremental
from nestling_lab.studies.continual.class_incremental import READERS, ClassIncremental, taught

SMALL = {"context": 64, "segment": 16, "rate": 1e-2}


def cell(reader):
    return {**SMALL, "reader": reader, "periods": [p // 4 for p in READERS[reader][1]]}


def test_levels_are_written_and_the_base_stays():
    base, task = tiny_reader(), Incremental.tiny()
    before = {name: value.clone() for name, value in base.model.named_parameters()}
    alone, *written = (taught(base, task, cell(reader), 0) for reader in READERS)
    assert all(torch.equal(before[name], value) for name, value in base.model.named_parameters())
    for found in (alone, *written):
        assert [len(row) for row in found["table"]] == [1, 2, 3]
        assert 0 <= found["score"] <= 1 and found["chance"] == pytest.approx(1 / 6)
        assert found["tokens"] > 64 >= found["tokens_seen"] > 0
    assert taught(base, task, cell("levels-2"), 0) == written[1]


def test_written_weights_change_the_answers(monkeypatch):
    from nestling_lab.studies.continual import class_incremental

    base, task, seen = tiny_reader(), Incremental.tiny(), []
    read = class_incremental.Written.read

    def watched(self, lessons):
        read(self, lessons)
        own = dict(self.reader.model.named_parameters())
        now = self.learner.weights()
        seen.append(all(torch.equal(own[name], value) for name, value in now.items()))
        seen.append(any(not torch.equal(value, self.start[name]) for name, value in now.items()))

    monkeypatch.setattr(class_incremental.Written, "read", watched)
    start = {name: value.clone() for name, value in base.model.named_parameters()}
    monkeypatch.setattr(class_incremental.Written, "start", start, raising=False)
    taught(base, task, cell("levels-1"), 0)
    assert seen and all(seen)


def test_page_compares_levels_with_the_context():
    study = ClassIncremental(ClassIncremental.Config(stages=2, learning_rates=(1e-4,)))

    def result(reader, seed):
        score = {"context": 0.5, "levels-1": 0.6, "levels-2": 0.7, "levels-3": 0.9}[reader]
        metrics = {
            "score": score + 0.01 * seed, "learned": 1.0, "forgotten": 1 - score, "chance": 0.05,
            "tokens": 900, "tokens_seen": 64, "table": [[1.0], [score, score]],
            "cpu_seconds": 3.0,
        }  # fmt: skip
        rate = 0.0 if reader == "context" else 1e-4
        own = study.cell(reader, rate, seed)
        return own.name, Result(name=own.name, config=own.config, metrics=metrics, seed=seed)

    done = dict(result(reader, seed) for reader in READERS for seed in (0, 1, 2))
    assert len(study.cells(done)) == len(done)
    found = study.find(done)
    assert found.answer.startswith("Yes: after 2 stages 0.51 of the questions")
    assert "0.91 and 3 levels" in found.answer
    assert found.metrics["levels-3"]["score"] == pytest.approx([0.9, 0.91, 0.92])
    assert "0.9" in found.sections[1].tables[0].text()
    some = {name: one for name, one in done.items() if "levels-3" not in name}
    assert study.find(some).answer.startswith("Open")
    assert study.find({}).answer == "Nothing has been run yet."
    assert not math.isnan(study.tuned.best("levels-1", done))
