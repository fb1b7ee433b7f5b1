"""Every family has a run, and diverged runs are named."""

from nestling.core.result import Result
from nestling.models.presets import FAMILIES
from nestling.train import TrainConfig
from nestling_lab.studies.ladder_smoke import LadderSmoke
from nestling_lab.studies.text import Text

STUDY = LadderSmoke()


def test_every_family_reads_the_same_data():
    cells = STUDY.cells({})
    assert [cell.name for cell in cells] == list(FAMILIES)
    assert {cell.config["preset"] for cell in cells} == {f"{name}-tiny" for name in FAMILIES}
    for cell in cells:
        assert cell.config["text"] == cells[0].config["text"]
        assert cell.config["train"] == cells[0].config["train"]


def test_run_gives_the_table_metrics(corpus):
    config = LadderSmoke.Config(
        families=("hope", "transformer"),
        text=Text(corpus=corpus, vocab_size=300),
        train=TrainConfig(steps=2, batch_size=2, sequence_length=64, save_every=0),
    )
    study = LadderSmoke(config)
    cell = study.cell("hope")._replace(
        config=study.cell("hope").config
        | {"overrides": {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2}}
    )
    result = study.run(cell)
    finding = study.find({"hope": result})
    assert finding.metrics["diverged"] == []
    row = finding.metrics["families"]["hope"]
    assert row["val_perplexity"] > 1 and row["num_parameters"] > row["num_non_embedding"]
    assert len(finding.sections[1].tables[0].rows) == 1


def test_diverged_run_is_named():
    cell = STUDY.cell("hope")
    metrics = {"diverged": True, "reason": "loss is nan at step 3", "num_parameters": 7}
    result = Result(name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed)
    finding = STUDY.find({"hope": result})
    assert finding.metrics["diverged"] == ["hope"]
    assert finding.sections[1].tables[0].rows[0][:3] == ("hope", "diverged", None)
    assert finding.answer.startswith("No: of 1 systems 1 diverged (hope)")
