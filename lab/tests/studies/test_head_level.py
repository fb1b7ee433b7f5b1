"""The screen of the head level: equal text for all, and the figures of its table."""

from nestling.core.result import Result
from nestling.train import TrainConfig
from nestling_lab.studies.head_level import SYSTEMS, HeadLevelStudy
from nestling_lab.studies.text import Text

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "mamba2.inner_size": 64}


def test_every_system_reads_the_same_for_as_long():
    cells = HeadLevelStudy().cells({})
    assert [cell.name for cell in cells] == list(SYSTEMS)
    free = {"learning_rate", "rates_by_role"}
    alike = [{k: v for k, v in cell.config["train"].items() if k not in free} for cell in cells]
    assert all(one == alike[0] for one in alike)
    assert all(cell.config["text"] == cells[0].config["text"] for cell in cells)


def test_a_run_gives_the_figures_of_the_table():
    config = HeadLevelStudy.Config(
        text=Text(vocab_size=512),
        train=TrainConfig(
            steps=2, batch_size=2, sequence_length=64, evaluate_tokens=500, save_every=0
        ),
    )
    study = HeadLevelStudy(config)
    done = {}
    for name in ("mamba2", "mamba2-head"):
        cell = study.cell(name)
        cell.config["overrides"].update(SMALL)
        done[name] = study.run(cell)
    finding = study.find(done)
    figures = finding.metrics["systems"]
    assert figures["mamba2-head"]["num_parameters"] == figures["mamba2"]["num_parameters"] + 1
    assert figures["mamba2-head"]["read_strength"] != 1 and not figures["mamba2"]["read_strength"]
    assert (
        "mamba2-head " in finding.sections[1].text and len(finding.sections[1].tables[0].rows) == 2
    )
    bad = Result(name="x", config={}, metrics={"diverged": True, "num_parameters": 1}, seed=0)
    row = study.find({"hope": bad}).sections[1].tables[0].rows[0]
    assert row[:3] == ("hope", "diverged", None)
