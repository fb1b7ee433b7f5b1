"""The head-level study: equal text for all systems, and its table."""

from nestling.core.result import Result
from nestling.train import TrainConfig
from nestling_lab.studies.head_level import SYSTEMS, HeadLevelStudy
from nestling_lab.studies.text import Text

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "mamba2.inner_size": 64}


def test_every_system_reads_the_same_data_and_steps():
    cells = HeadLevelStudy().cells({})
    others = [f"{name}-seed{seed}" for seed in (1, 2) for name in SYSTEMS]
    assert [cell.name for cell in cells] == [*SYSTEMS, *others]
    free = {"learning_rate", "rates_by_role", "seed"}
    alike = [{k: v for k, v in cell.config["train"].items() if k not in free} for cell in cells]
    assert all(one == alike[0] for one in alike)
    assert all(cell.config["text"] == cells[0].config["text"] for cell in cells)


def test_run_gives_the_table_metrics(corpus):
    config = HeadLevelStudy.Config(
        text=Text(corpus=corpus, vocab_size=300),
        train=TrainConfig(
            steps=2, batch_size=2, sequence_length=64, evaluate_tokens=500, save_every=0
        ),
    )
    study = HeadLevelStudy(config)
    done = {}
    for name in ("mamba2-roles", "mamba2-roles-head"):
        cell = study.cell(name, 0)
        cell.config["overrides"].update(SMALL)
        done[name] = study.run(cell)
    finding = study.find(done)
    plain, head = (finding.metrics["systems"][f"mamba2-roles{form}"][0] for form in ("", "-head"))
    assert head["num_parameters"] == plain["num_parameters"] + 1
    assert head["read_strength"] != 1 and not plain["read_strength"]
    gap = head["val_loss"] - plain["val_loss"]
    assert finding.shown.tables[0].rows[0][-1] == f"{gap:+.3g} (one pair)"
    assert [row[:3] for row in finding.sections[1].tables[0].rows] == [
        ("mamba2-roles", 0, plain["val_loss"]),
        ("mamba2-roles-head", 0, head["val_loss"]),
    ]
    bad = Result(name="x", config={}, metrics={"diverged": True, "num_parameters": 1}, seed=0)
    lost = study.find({"hope": bad})
    assert lost.sections[1].tables[0].rows[0][:4] == ("hope", 0, "diverged", None)
    assert "no two systems" in lost.answer
