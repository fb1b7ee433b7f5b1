"""The optimizer studies at a small size: they run, repeat, and report correct metrics."""

import dataclasses
import math

import pytest
import torch

from nestling.data.fashion import Pictures
from nestling_lab.studies import load_study
from nestling_lab.studies.optimizers.curvature import Curvature, Valley, best_rate, walk
from nestling_lab.studies.optimizers.entrants import ENTRANTS, SIZE, split
from nestling_lab.studies.optimizers.forgetting import Forgetting, Tasks, learn
from nestling_lab.studies.optimizers.messy import MESS, Messy, add_heavy_tails, network, spoiled
from nestling_lab.studies.optimizers.tuned import against, interval_text, over_seeds, tuned
from nestling_lab.studies.optimizers.vision import Vision
from nestling_lab.studies.optimizers.vit import VitConfig, create_vit


def made_up(split: str) -> Pictures:
    """Ten classes that a small network can separate."""
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(10, 28, 28, generator=generator)
    generator.manual_seed({"train": 1, "test": 2}[split])
    labels = torch.randint(10, (300,), generator=generator)
    noise = torch.randn(300, 28, 28, generator=generator)
    return Pictures(middles[labels] + noise, labels)


MESSY = Messy(Messy.Config(seeds=(0, 1), steps=8, hidden=16, validation=50), made_up)
SMALL = VitConfig(patch=14, hidden_size=16, num_layers=1, num_heads=2, mlp_size=32)
VISION = Vision(
    Vision.Config(seeds=(0, 1), steps=4, batch_size=16, validation=50, model=SMALL), made_up
)


def test_every_grid_has_the_same_size():
    assert {len(entrant.rates) for entrant in ENTRANTS.values()} == {SIZE}
    for entrant in ENTRANTS.values():
        assert entrant.rates[SIZE // 2] == pytest.approx(entrant.middle, rel=1e-2)
    assert len({len(cell.config["rates"]) for cell in MESSY.cells({})}) == 1


@pytest.mark.parametrize("name", ENTRANTS)
def test_every_entrant_lowers_the_loss_of_a_small_network(name):
    module = network(16, 0)
    data = made_up("train")
    entrant = ENTRANTS[name]
    optimizers = entrant.build(module, entrant.middle)
    owned = {p for o in optimizers for g in o.param_groups for p in g["params"]}
    assert owned == set(module.parameters())
    losses: list[float] = []
    while len(losses) < 400 and not (losses and losses[-1] < 0.9 * losses[0]):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(data.values), data.labels)
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_hidden_matrices_are_separated():
    matrices, others = split(create_vit(SMALL, 0))
    assert matrices and all(p.ndim == 2 for p in matrices)
    assert len(matrices) + len(others) == len(list(create_vit(SMALL, 0).parameters()))


def test_tuning_takes_the_lowest_loss_and_ranks_nan_last():
    def attempt(rate, seed):
        return {"loss": math.nan if rate > 1 else abs(rate - 0.3) + seed, "other": 1.0}

    record = tuned(attempt, rates=(0.1, 0.3, 1.0, 3.0), seeds=(0, 5), chosen_by="loss")
    assert record["rate"] == 0.3 and not record["rate_at_edge_of_grid"]
    assert record["grid"]["3"] == {"loss": None, "other": 1.0}
    assert record["runs"] == {"0": {"loss": 0.0, "other": 1.0}, "5": {"loss": 5.0, "other": 1.0}}


def test_difference_counts_only_if_its_interval_excludes_zero():
    def record(values):
        return {"runs": {str(i): {"loss": v} for i, v in enumerate(values)}}

    base = record([1.0, 2.0, 3.0])
    assert against(record([0.5, 1.5, 2.6]), base, "loss")["verdict"] == "wins"
    assert against(record([1.5, 2.6, 3.5]), base, "loss")["verdict"] == "loses"
    assert against(record([0.5, 2.5, 3.0]), base, "loss")["verdict"] == "ties"
    assert against(record([0.5]), base, "loss")["verdict"] is None


def test_more_divergences_lose_and_are_shown():
    def record(values):
        return {"runs": {str(i): {"loss": v, "right": v and 0.5} for i, v in enumerate(values)}}

    base, lost = record([1.0, 2.0, 3.0]), record([0.5, None, None])
    assert against(lost, base, "loss") == {"mean": -0.5, "half_width_95": None, "verdict": "loses"}
    assert against(base, lost, "loss")["verdict"] == "wins"
    assert against(lost, lost, "loss")["verdict"] is None
    assert interval_text(over_seeds(lost, "right")) == "0.5 (2 of 3 diverged)"
    assert interval_text(over_seeds(record([None]), "loss")) == "diverged"
    # an accuracy of 0 with a non-finite loss does not count
    assert over_seeds({"runs": {"0": {"loss": None, "right": 0.0}}}, "right") == [None]


def test_equation_53_and_its_minimum():
    config = Curvature.Config()
    r, theta = -3.5, 2.0
    want = r**2 + 8 * (r - theta + 0.6 * math.sin(6 * r)) ** 2
    place = torch.tensor([r, theta], dtype=torch.float64)
    assert Valley(config, place).depth().item() == pytest.approx(want)
    assert Valley(config, torch.zeros(2, dtype=torch.float64)).depth().item() == 0


def test_trajectory_converges_or_reports_never():
    config = Curvature.Config(limit=1000)
    place = torch.tensor([-3.5, 2.0], dtype=torch.float64)
    steps = walk(config, "momentum", 0.0056, place)
    assert steps is not None and 10 < steps < 1000
    assert walk(config, "momentum", 10.0, place) is None
    assert walk(config, "momentum", 1e-9, place) is None
    assert best_rate({"1": [None, 5], "2": [7, 7]}, 100) == "2"


def test_curvature_runs_and_reports_the_shared_rate():
    config = Curvature.Config(
        contenders=("momentum", "adamw"), rates=(0.003, 0.01, 0.1), starts=2, limit=300
    )
    study = Curvature(config)
    done = {cell.name: study.run(cell) for cell in study.cells({})}
    finding = study.find(done)
    shared = finding.metrics["shared_rate"]
    assert shared in ("0.003", "0.01", "0.1")
    momentum = finding.metrics["optimizers"]["momentum"]
    assert momentum["steps_at_best"] == momentum["steps_at_shared"]


def test_task_directions_have_the_given_cosine():
    config = dataclasses.asdict(Forgetting.Config()) | {"overlap": 0.5}
    directions = Tasks(config, 0).directions
    gram = directions @ directions.T
    want = 0.5 + 0.5 * torch.eye(len(directions))
    torch.testing.assert_close(gram, want, rtol=1e-5, atol=1e-5)


def test_equation_45_gradients_lie_along_the_direction_of_their_task():
    """E |W x - y|^2 of x = s u_i: the gradient is 2 E[s^2] (W u_i - target) u_i^T."""
    config = dataclasses.asdict(Forgetting.Config(noise=0.0)) | {"overlap": 0.0}
    tasks = Tasks(config, 0)
    for task, (u, target) in enumerate(zip(tasks.directions, tasks.targets, strict=True)):
        x, y = tasks.batch(task)
        W = torch.randn(config["outputs"], config["inputs"], requires_grad=True)
        (x @ W.T - y).square().sum(1).mean().backward()
        s, error = x @ u, W.detach() @ u - target
        want = 2 * s.square().mean() * torch.stack([e * u for e in error])
        torch.testing.assert_close(W.grad, want, rtol=1e-4, atol=1e-5)
        for other, direction in enumerate(tasks.directions):
            assert other == task or (W.grad @ direction).norm() < 1e-5 * W.grad.norm()


def test_gradient_descent_has_no_memory_to_decay():
    config = dataclasses.asdict(Forgetting.Config(steps=20, tasks=2)) | {
        "overlap": 0.5,
        "optimizer": "gd",
    }
    carried, fresh = (learn(config, 0.1, 0, fresh=f) for f in (False, True))
    assert carried == fresh
    config["optimizer"] = "momentum"
    # at this rate the first task is still being learned when the second begins
    carried, fresh = (learn(config, 0.01, 0, fresh=f) for f in (False, True))
    assert carried["pull"] > fresh["pull"] and carried != fresh


def test_forgetting_runs():
    config = Forgetting.Config(
        contenders=("gd", "momentum"), overlaps=(0.5,), seeds=(0, 1), steps=10, tasks=2
    )
    study = Forgetting(config)
    done = {cell.name: study.run(cell) for cell in study.cells({})}
    metrics = study.find(done).metrics
    assert metrics["overlap0.5-gd"]["own_memory"] == [0.0, 0.0]
    assert len(metrics["overlap0.5-momentum"]["carried"]["grid"]) == SIZE


@pytest.mark.parametrize("mess", MESS)
def test_perturbations_are_as_declared(mess):
    generator = torch.Generator().manual_seed(0)
    batch = made_up("train")
    changed, bright, shifted = 0.0, 0, 0
    for step in range(1000):
        new = spoiled(batch, mess, step, 1000, generator)
        changed += (new.labels != batch.labels).float().mean().item() / 1000
        bright += torch.equal(new.values, 10 * batch.values)
        shifted += not torch.equal(new.labels, batch.labels)
    expected = {"label-noise": 0.36, "outliers": 0.045, "drift": 0.8}.get(mess, 0.0)
    assert changed == pytest.approx(expected, abs=0.03)
    assert bright == (shifted if mess == "outliers" else 0)


def test_heavy_tails_have_outliers():
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(2000):
        p = torch.nn.Parameter(torch.zeros(8, 8))
        p.grad = torch.ones(8, 8)
        add_heavy_tails(p, generator)
        sizes.append((p.grad - 1).square().mean().sqrt().item())
    sizes.sort()
    assert 0.5 < sizes[1000] < 2.5 and sizes[-1] > 30


def test_messy_and_vision_are_deterministic_and_paired_by_seed():
    for study, name in ((MESSY, "label-noise-momentum"), (VISION, "momentum")):
        (cell,) = (c for c in study.cells({}) if c.name == name)
        result = study.run(cell)
        assert result.metrics == study.run(cell).metrics
        assert set(result.metrics["runs"]) == {"0", "1"}
        lower = study.config.lower if isinstance(study, Messy) else 0
        assert len(result.metrics["grid"]) == SIZE + lower
        finding = study.find({cell.name: result})
        assert "momentum" in str((finding.shown, finding.sections))


@pytest.mark.parametrize(
    "name",
    ["optim-curvature", "optim-forgetting", "optim-messy", "optim-vision", "optim-language"],
)
def test_empty_study_has_a_page_and_unique_cell_names(name):
    study = load_study(name)
    names = [cell.name for cell in study.cells({})]
    assert len(set(names)) == len(names) > 2
    assert study.find({}).sections
