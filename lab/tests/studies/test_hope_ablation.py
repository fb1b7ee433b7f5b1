"""The ablation of Hope: one change per arm, equal data for all, and the verdict."""

import dataclasses

import pytest

from nestling.core.result import Result
from nestling.core.statistics import paired
from nestling.models import create
from nestling.tasks.recall import Recall
from nestling.train import TrainConfig
from nestling_lab.studies.figure_lm_tuned import FAST
from nestling_lab.studies.hope_ablation import ARMS, TRAINED, WHOLE, HopeAblation, answer
from nestling_lab.studies.text import Text

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "cms.intermediate_size": 16}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_differs_from_hope(arm):
    plain = create("hope-tiny", vocab_size=50, **TINY | FAST)
    changed = create("hope-tiny", vocab_size=50, **TINY | FAST | ARMS[arm])
    assert (changed.config.to_dict() == plain.config.to_dict()) == (arm == WHOLE)


def test_every_arm_reads_the_same_data_and_steps():
    study = HopeAblation()
    cells = study.cells({})
    assert len({cell.name for cell in cells}) == len(cells) == 3 * (2 * len(ARMS) + len(TRAINED))
    for task in ("text", "recall"):
        own = [study.cell(arm, task, 1).config for arm in ARMS]
        free = {"arm", "overrides"}
        alike = [{k: v for k, v in config.items() if k not in free} for config in own]
        assert all(one == alike[0] for one in alike)
    for arm, changed in TRAINED.items():
        whole, other = (study.cell(one, "text", 1).config for one in (WHOLE, arm))
        assert other["overrides"] == whole["overrides"]
        assert other["train"] == whole["train"] | changed != whole["train"]


def test_runs_give_the_table_metrics(corpus):
    train = TrainConfig(steps=2, batch_size=4, sequence_length=64, save_every=0)
    study = HopeAblation(
        HopeAblation.Config(
            arms=(WHOLE, "dot objective"),
            seeds=(0,),
            text=Text(corpus=corpus, vocab_size=300),
            held_out_tokens=500,
            train=train,
            task=Recall.tiny().config,
            recall=dataclasses.replace(train, sequence_length=Recall.tiny().length, carry=False),
            test_count=4,
        )
    )
    done = {}
    for cell in study.cells({}):
        cell.config["overrides"].update(TINY)
        done[cell.name] = study.run(cell)
    finding = study.find(done)
    assert [len(v) for v in finding.metrics["loss"].values()] == [1, 1]
    assert all(0 <= a <= 1 for v in finding.metrics["recall"].values() for a in v)
    assert [row[0] for row in finding.shown.tables[0].rows] == [WHOLE, "dot objective"]


def test_verdict_names_worse_better_and_inconclusive():
    study = HopeAblation(HopeAblation.Config(arms=(WHOLE, "no decay", "writes off", "long start")))
    losses = {
        WHOLE: [2.0, 2.1, 2.2],
        "no decay": [2.5, 2.6001, 2.7],
        "writes off": [1.5, 1.6001, 1.7],
        "long start": [2.1, 2.0, 2.2],
    }
    done = {
        study.cell(arm, "text", seed).name: Result(
            name="x",
            config={},
            seed=seed,
            metrics={"diverged": False, "val_loss": loss, "num_parameters": 1},
        )
        for arm, by_seed in losses.items()
        for seed, loss in enumerate(by_seed)
    }
    finding = study.find(done)
    assert finding.answer == (
        "All 3 changes have been run; with no decay the loss rises significantly, with writes "
        "off the loss falls significantly, with long start the loss is not significantly different."
    )
    told = {row[0]: row[3] for row in finding.shown.tables[0].rows}
    assert told["no decay"].startswith("+0.5 +/- ") and "(higher, p = " in told["no decay"]
    assert "(lower, p = " in told["writes off"] and "(n.s., p = 1)" in told["long start"]
    assert answer({}, 3).startswith("Open: no part")
    many = {str(n): paired([1.0, 1.1 * n], [1.0, 1.0]) for n in range(7)}
    assert answer(many, 7).endswith(
        "of the 7 no difference in loss is significant, the largest are 6 (+2.800), 5 (+2.250), "
        "4 (+1.700), 3 (+1.150) and 2 (+0.600)."
    )
