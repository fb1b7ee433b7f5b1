"""The study of made-up facts at a small size, and how questions are answered."""

import json
import random

import pytest
import torch
from small_facts import Made, tiny_reader

from nestling.continual.methods import InContext
from nestling.continual.stream import Cut
from nestling.core.result import Result
from nestling.models.pretrained import LevelSpec
from nestling.tasks.facts import document
from nestling_lab.studies.continual import facts
from nestling_lab.studies.continual.asking import FILL, Asked, View, answers, view
from nestling_lab.studies.continual.contenders import Place
from nestling_lab.studies.continual.fact_figures import by_document
from nestling_lab.studies.continual.fact_readers import READERS
from nestling_lab.studies.continual.fact_report import report
from nestling_lab.studies.continual.facts import Facts, told_documents


@pytest.fixture
def base():
    return tiny_reader()


def test_answers_match_scoring_each_choice_separately(base):
    reader = view(InContext(base.model, kept=0, window=64, segment=8)).reader
    asked = [
        Asked((5, 6, 7), ((8,), (9, 10), (9, 11, 12), (FILL,)), 1),
        Asked((5, 6), ((12, 3), (4,)), 0),
    ]
    for prefix in ((), (20, 21, 22)):
        for question, found in zip(
            asked, answers(View(reader, {}, lambda prompt, p=prefix: p), asked), strict=True
        ):
            nats, said = [], []
            for choice in question.choices:
                row = [*prefix, *question.prompt, *choice]
                with torch.no_grad():
                    logits = base.model(torch.tensor([row])).logits[0].double()
                own = logits[-len(choice) - 1 : -1].log_softmax(-1)
                nats.append(sum(float(own[i, token]) for i, token in enumerate(choice)))
                said.append(all(int(own[i].argmax()) == t for i, t in enumerate(choice)))
            others = [n for i, n in enumerate(nats) if i != question.right]
            assert found.right == (nats[question.right] > max(others))
            assert found.margin == pytest.approx(
                nats[question.right] - sum(others) / len(others), abs=1e-4
            )
            assert found.said == said[question.right]
            total = torch.tensor(nats).double().logsumexp(0)
            assert found.nats == pytest.approx(float(total) - nats[question.right], abs=1e-4)


def test_questions_are_not_in_documents_and_controls_are_unrelated(base):
    for seed in range(20):
        one = document(random.Random(seed))
        for question in one.questions:
            assert question.prompt not in one.text
            assert question.prompt.split("\n")[0].removeprefix("Question: ") not in one.text
    for one in told_documents(base, 0, 5):
        person = base.tokenizer.decode(one.ids).splitlines()[0].split("About ")[1]
        for near, far in zip(one.questions, one.strangers, strict=True):
            assert person in base.tokenizer.decode(list(near.prompt))
            assert person not in base.tokenizer.decode(list(far.prompt))
            assert near.choices == far.choices and near.right == far.right
            assert not any(base.tokenizer.bos_token_id in choice for choice in near.choices)


def test_every_tuned_reader_has_equal_settings():
    counts = {len(reader.settings) for name, reader in READERS.items() if name not in facts.STILL}
    assert counts == {3}


@pytest.mark.parametrize(
    ("name", "counts", "trust", "finishing"),
    [
        ("levels-1", [1], LevelSpec.trust, False),
        ("levels-3", [16, 4, 1], LevelSpec.trust, False),
        ("levels-2-whole", [4, 1], None, True),
    ],
)
def test_levels_are_written_every_n_segments(base, name, counts, trust, finishing):
    reader = READERS[name]
    method = reader.build(Place(base, [], Cut(8, 1024), 0), dict(reader.settings[0]))
    levels = method.learner.levels
    assert [level.period for level in levels] == [8 * count for count in counts]
    assert {level.trust for level in levels} == {trust} and method.finishing == finishing
    everything = sum(map(len, method.learner.parameters))
    assert (everything < len(list(base.model.named_parameters()))) != finishing
    method.read(list(range(2, 13)))
    assert method.updates == (2 if finishing else 1)


@pytest.fixture
def small(monkeypatch, base):
    monkeypatch.setattr(facts, "load_corpus", Made)
    monkeypatch.setattr(facts, "real", lambda name: base)
    return Facts(
        Facts.Config(
            readers=tuple(READERS),
            targets=1,
            distances=(0, 1),
            passes=1,
            segment=128,
            tuning=1,
            seeds=(0, 1),
            known=2,
            probe=24,
        )
    )


def test_small_study_is_deterministic_and_reported(small):
    done = {}
    for _ in range(2):  # the trials, then the runs that follow from them
        for cell in small.cells(done):
            if cell.name not in done:
                done[cell.name] = small.run(cell)
    assert len(done) == len(small.cells(done)) == 11 + 13 * 2
    cell = next(c for c in small.cells(done) if c.name == "levels-2-seed0")
    assert small.run(cell).metrics == done[cell.name].metrics
    control = done["frozen-seed0"].metrics
    assert control["known"][0] == control["known"][1] and control["updates"] == 0
    read = done["levels-2-seed0"].metrics
    assert read["updates"] > 0 and len(read["replies"]["1"]) == 1
    assert read["replies"]["0"] != control["replies"]["0"]
    finding = small.find(done)
    assert set(finding.metrics) == set(READERS)
    [table] = finding.shown.tables
    assert table.columns[3] == "1 documents later"
    assert [row[0] for row in table.rows] == [reader.title for reader in READERS.values()]
    assert len(by_document([done["frozen-seed0"], done["frozen-seed1"]], 1, 0)) == 2


def test_diverged_reader_is_named():
    nan = float("nan")

    def runs(*means):
        each = [[[m, m, 1.0, m]] * 2 for m in means]
        metrics = {"replies": {"0": each, "2": each}, "strangers": each, "known": [1.0, means[-1]]}
        config = {"setting": {}}
        return [Result(name="x", config=config, metrics=metrics | {"updates": 1}, seed=0)]

    readers = {
        "frozen": runs(0.25, 0.25, 0.3),
        "fine-tuning": runs(0.5, 0.5, 0.5),
        "levels-2": runs(1.0, nan, nan),
    }
    config = Facts.Config(readers=tuple(readers), targets=3, distances=(0, 2))
    finding = report(config, readers, {"fine-tuning": [({"rate": 1.0}, nan)]})
    json.dumps(finding.metrics, allow_nan=False)
    rows = {row[0]: row for row in finding.shown.tables[0].rows}
    levels = READERS["levels-2"].title
    assert rows[levels][3:] == ["1 (2 of 3 diverged)", "0.75 (diverged in 2 of 3)"]
    assert rows["full fine-tuning"][3] == "0.5 +/- 0"
    assert finding.sections[-1].tables[0].text().endswith("diverged")
    assert f"{levels} (in part diverged)" in finding.sections[1].figures[0]


def test_diverged_setting_is_not_chosen():
    study = Facts()
    trial = study.trial("fine-tuning")
    for losses, place in (([float("nan"), 1.0, 2.0], 1), ([2.0, float("nan"), 1.0], 2)):
        result = Result(name=trial.name, config=trial.config, metrics={"losses": losses})
        setting = study.best("fine-tuning", {trial.name: result})
        assert setting == READERS["fine-tuning"].settings[place]


def test_empty_study_has_a_page():
    assert Facts().find({}).sections[0].title == "Method"
