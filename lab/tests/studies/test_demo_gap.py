"""The second stage follows the first, and the metrics come from the Results."""

import dataclasses
import json
import math

import pytest

from nestling.core.result import Result
from nestling.models import create
from nestling.models.factory import embedding_parameters
from nestling.train import TrainConfig
from nestling_lab.studies.demo_gap import CONTENDERS, HOPE, DemoGap
from nestling_lab.studies.text import Text

STUDY = DemoGap()


def made_up(cell, loss):
    """A Result of a cell with this held-out loss; None for a run that diverged."""
    metrics = {"num_parameters": 20, "num_non_embedding": 10, "diverged": loss is None}
    if loss is not None:
        stretches = [
            {"start": 0, "end": 16, "loss": loss, "tokens": 5},
            {"start": 16, "end": 32, "loss": loss - 1, "tokens": 5},
        ]
        metrics |= {"val_loss": loss, "val_by_position": stretches, "tokens_per_second": 7.0}
    return Result(name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed)


def grid_of(model, losses):
    """A finished grid; rates without a given loss have diverged."""
    cells = STUDY.tuned.grid(model)
    losses = [*losses, *[None] * (len(cells) - len(losses))]
    return {c.name: made_up(c, loss) for c, loss in zip(cells, losses, strict=True)}


def whole():
    """Every cell: model m has loss 2 + m at its best rate, plus a tenth per seed."""
    done = {}
    for m, model in enumerate(CONTENDERS):
        done |= grid_of(model, [3.0 + m, 2.0 + m])
        rate = STUDY.tuned.best(model, done)
        for seed in STUDY.config.seeds[1:]:
            cell = STUDY.cell(model, rate, seed)
            done[cell.name] = made_up(cell, 2.0 + m + 0.1 * seed)
    return done


def test_only_the_model_differs():
    cells = STUDY.cells({})
    assert len(cells) == len({cell.name for cell in cells})
    for cell in cells:
        assert cell.config["text"] == cells[0].config["text"]
        train = cell.config["train"] | {"learning_rate": 0}
        assert train == cells[0].config["train"] | {"learning_rate": 0}
    rates = {
        m: {c.config["train"]["learning_rate"] for c in STUDY.tuned.grid(m)} for m in CONTENDERS
    }
    assert len({frozenset(found) for found in rates.values()}) == 1
    assert len(rates[HOPE]) >= 3


def test_parameters_are_matched():
    counts = []
    for contender in CONTENDERS.values():
        model = create(contender.preset, **contender.overrides)
        counts.append(model.num_parameters() - embedding_parameters(model))
    assert max(counts) / min(counts) < 1.02


def test_other_seeds_wait_for_the_grid_and_run_at_the_best_rate():
    low, middle, *_ = STUDY.config.learning_rates
    done = grid_of(HOPE, [3.0, 2.0])
    partial = dict(list(done.items())[:2])
    assert STUDY.tuned.best(HOPE, partial) is None
    assert {cell.seed for cell in STUDY.cells(partial)} == {0}
    assert STUDY.tuned.best(HOPE, done) == middle, "a run that diverged is the worst"
    assert STUDY.tuned.best(HOPE, grid_of(HOPE, [1.0, 2.0])) == low
    later = [cell.name for cell in STUDY.cells(done) if cell.seed]
    assert later == [STUDY.cell(HOPE, middle, seed).name for seed in STUDY.config.seeds[1:]]


def test_means_intervals_and_paired_differences():
    metrics = STUDY.find(whole()).metrics["models"]
    losses = [2.0, 2.1, 2.2]
    hope, frozen = metrics[HOPE], metrics["hope-frozen"]
    assert hope["val_loss"]["mean"] == pytest.approx(2.1)
    assert hope["val_loss"]["half_width_95"] == pytest.approx(4.30265273 * 0.1 / math.sqrt(3))
    assert hope["val_perplexity"]["mean"] == pytest.approx(sum(map(math.exp, losses)) / 3)
    # each seed adds the same to both models, so paired differences have no spread
    assert frozen["loss_above_hope"]["mean"] == pytest.approx(1.0)
    assert frozen["loss_above_hope"]["half_width_95"] == pytest.approx(0.0, abs=1e-9)
    assert hope["loss_above_hope"] is None
    assert not hope["rate_at_edge_of_grid"]


def test_diverged_seeds_are_named_and_rank_last():
    done = whole()
    for seed in (1, 2):
        cell = STUDY.cell("transformer", STUDY.tuned.best("transformer", done), seed)
        done[cell.name] = made_up(cell, None)
    finding = STUDY.find(done)
    json.dumps(finding.metrics, allow_nan=False)
    found = finding.metrics["models"]["transformer"]
    assert found["val_loss"]["diverged"] == 2 and found["loss_above_hope"]["worse"] == 2
    row = next(row for row in finding.shown.tables[0].rows if row[0] == "Transformer++")
    assert row[1].endswith("(2 of 3 diverged)") and row[3] == "2 (diverged in 2 of 3)"
    assert "Transformer++ (2 of 3 diverged)" in finding.sections[1].figures[0]
    hope = STUDY.cell(HOPE, STUDY.tuned.best(HOPE, done), 1)
    done[hope.name] = made_up(hope, None)
    above = STUDY.find(done).metrics["models"]["hope-frozen"]["loss_above_hope"]
    assert (above["worse"], above["better"]) == (0, 1)


def test_best_rate_at_the_edge_is_noted():
    finding = STUDY.find(grid_of(HOPE, [1.0, 2.0, 3.0, 4.0]))
    assert finding.metrics["models"][HOPE]["rate_at_edge_of_grid"]
    assert any("edge of the grid" in section.text for section in finding.sections)


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_any_part_can_be_reported_and_is_json(count):
    done = dict(list(whole().items())[:count])
    finding = STUDY.find(done)
    json.dumps(finding.metrics, allow_nan=False)
    runs = next(section for section in finding.sections if section.title == "Every run").tables[0]
    states = [row[1] for row in runs.rows]
    assert len(states) - states.count("to do") == count


def test_small_study_runs_deterministically(tmp_path, monkeypatch):
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    pages = (" ".join(f"w{page * 100 + word}" for word in range(60)) for page in range(30))
    path.write_text("\n\n".join(pages), encoding="utf-8")
    train = TrainConfig(steps=2, batch_size=2, sequence_length=32, save_every=0)
    text = Text(corpus=str(path), vocab_size=300)
    study = DemoGap(DemoGap.Config(text=text, train=train, seeds=(0,)))
    cell = study.cell("hope-frozen", 1e-3, 0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2}
    cell = cell._replace(config=cell.config | {"overrides": {**small, "writes": False}})
    steps = []
    one = study.run(cell, tell=lambda step, steps_, loss: steps.append((step, steps_)))
    assert steps == [(1, 2), (2, 2)]
    assert one.config["train"] == dataclasses.asdict(study.config.train) | {"learning_rate": 1e-3}
    assert one.corpus == text.prepare().corpus.tag
    again = study.run(cell)
    assert one.metrics["val_loss"] == again.metrics["val_loss"]
    assert one.metrics["num_non_embedding"] < one.metrics["num_parameters"]
