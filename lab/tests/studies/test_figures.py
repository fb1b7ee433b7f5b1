"""figure-lm and figure-niah at a small size: run, resumed and reported, also with missing cells."""

import dataclasses
import functools
import json
import math

import pytest
import torch

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.data import bigbench, byte_tokenizer, load_corpus
from nestling.evals.questions import TextQuestions
from nestling.models import create
from nestling.tasks import TASKS
from nestling.tasks.words import made_prose
from nestling.train import TrainConfig
from nestling.train.flops import flops_per_token
from nestling_lab.studies import Shard, Store, run_study
from nestling_lab.studies import figure_lm as figure_lm_study
from nestling_lab.studies import figure_niah as figure_niah_study
from nestling_lab.studies.answers import differences
from nestling_lab.studies.figure_lm import MODELS as LM_MODELS
from nestling_lab.studies.figure_lm import FigureLm
from nestling_lab.studies.figure_niah import MODELS as NIAH_MODELS
from nestling_lab.studies.figure_niah import FigureNiah
from nestling_lab.studies.lm_report import compared
from nestling_lab.studies.needles import Bare, Course, Lesson, Mixed
from nestling_lab.studies.status import status
from nestling_lab.studies.text import Text
from nestling_lab.studies.tuned import Tuned, is_edge

TRAIN = TrainConfig(steps=2, batch_size=2, sequence_length=64, evaluate_tokens=256, save_every=0)


@pytest.fixture
def questions(corpus):
    """Generated questions instead of BIG-bench's."""
    examples = [
        {"input": f"{i}?", "target_scores": {"yes": i % 2, "no": 1 - i % 2}} for i in (1, 2)
    ]
    path = bigbench.place("social_iqa")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"examples": examples}))


@pytest.mark.parametrize("models", [LM_MODELS, NIAH_MODELS], ids=["figure-lm", "figure-niah"])
def test_parameters_are_equal_within_2_percent(models):
    sizes = {}
    for name, options in models.items():
        sizes[name] = create(f"{name}-tiny", vocab_size=4096, **options).num_parameters()
    for name, size in sizes.items():
        assert size == pytest.approx(sizes["transformer"], rel=0.02), name


@pytest.fixture
def counted(monkeypatch):
    """Operations per token are counted over a short row."""
    short = functools.partial(flops_per_token, length=32)
    for module in (figure_lm_study, figure_niah_study):
        monkeypatch.setattr(module, "flops_per_token", short)


def figure_lm(corpus):
    return FigureLm(
        FigureLm.Config(
            models=("hope", "transformer"),
            seeds=(0, 1),
            learning_rates=(1e-3,),
            text=Text(corpus=corpus, vocab_size=300, align=1),
            train=TRAIN,
            lm_bytes=300,
            questions=2,
            tasks=("social_iqa",),
        )
    )


def test_small_figure_lm(corpus, questions, narrow, counted, tmp_path):
    study = figure_lm(corpus)
    whole = Store(tmp_path / "whole", study)
    nothing = status(whole).text()
    assert "No model has finished its grid" in nothing and "To do: hope-lr0.001-seed0" in nothing
    run_study(whole, cells="hope-*", quiet=True)
    part = status(whole)
    assert "transformer-lr0.001-seed0" in part.missing and "hope" in part.text()
    # the rest in two shards and a final call
    for index in (1, 2, 1, 2):
        run_study(whole, shard=Shard(index, 2), quiet=True)
    found = status(whole)
    assert not found.pending and len(found.done) == 4
    hope = found.finding.metrics["models"]["hope"]
    assert hope["seeds"] == [0, 1] and hope["flops_per_token"] > 6 * 100_000
    assert hope["tokens"] == 2 * 2 * 64 and not hope["rate_at_edge_of_grid"]
    above = found.finding.metrics["above_hope"]["transformer"]
    assert above["count"] == 2 and 0 <= above["p_t"] <= 1
    result = next(iter(found.done.values()))
    assert result.metrics["lm"]["bytes"] >= 300 and len(result.metrics["loss_curve"]) == 2
    assert result.metrics["commonsense"]["social_iqa"]["questions"] == 2
    text = found.text()
    assert "arXiv 2512.24695v1, Table 2" in text and "+/-" in text
    assert found.latex().count(r"\begin{tabular}") == 7


DIVERGED = {
    "diverged": True, "reason": "loss is nan", "num_parameters": 1, "num_non_embedding": 1,
    "flops_per_token": 6,
}  # fmt: skip


def with_diverged(study, seeds):
    """Results of a study of two models; hope diverged for these seeds."""
    found = {"val_loss": 5.0, "tokens": 256, "tokens_per_second": 9.0, "loss_curve": [(128, 6.0)]}
    found["val_by_position"] = [{"start": 0, "end": 16, "loss": 5.0, "tokens": 3}]
    found["lm"] = {"word_perplexity": 300.0, "bits_per_byte": 2.0}
    found["commonsense"] = {"social_iqa": {"acc_norm": 0.5, "chance": 0.5}}
    done = {}
    for model, cell in [(m, study.cell(m, 1e-3, s)) for m in study.config.models for s in (0, 1)]:
        lost = model == "hope" and cell.seed in seeds
        metrics = DIVERGED if lost else DIVERGED | found | {"diverged": False}
        done[cell.name] = Result(
            name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed
        )
    return study.find(done)


@pytest.mark.parametrize("seeds", [(1,), (0, 1)])
def test_diverged_seed_is_named_and_not_averaged(corpus, seeds):
    finding = with_diverged(figure_lm(corpus), seeds)
    json.dumps(finding.metrics, allow_nan=False)
    loss = finding.metrics["models"]["hope"]["val_loss"]
    assert loss["diverged"] == len(seeds) and loss["mean"] == (5.0 if len(seeds) == 1 else None)
    above = finding.metrics["above_hope"]["transformer"]
    assert (above["worse"], above["better"]) == (0, len(seeds))
    said = {section.title: section for section in finding.sections}
    rows = {row[0]: row[1:] for row in finding.shown.tables[0].rows}
    assert f"the other diverged in {len(seeds)} of 2" in rows["transformer"][2]
    told = "diverged" if len(seeds) == 2 else "148.4 (1 of 2 diverged)"
    assert rows["hope"][0] == told
    assert ["diverged"] * len(seeds) == [
        row[1] for row in said["Every run"].tables[0].rows if row[1] != "finished"
    ]
    assert "hope (1 of 2 diverged)" in said["As it is trained"].figures[0] or len(seeds) == 2


def made(losses):
    """Results of seeds with these losses; None for a run that diverged."""
    return {
        seed: Result(name="x", config={}, metrics={"val_loss": loss, "diverged": loss is None})
        for seed, loss in enumerate(losses)
    }


def test_two_diverged_seeds_of_three_are_not_a_tie():
    for losses in ([4.9, None, None], [4.9, 5.0, None]):
        runs = {"hope": made([5.0, 5.1, 5.05]), "mamba2": made(losses)}
        told = differences(compared(runs))["mamba2"]
        assert told.endswith(f"(diverged in {losses.count(None)} of 3)")


def test_table_states_only_supported_findings():
    runs = {
        "hope": made([5.0, 5.1, 5.05]),
        "transformer": made([5.5, 5.61, 5.54]),
        "samba": made([4.0, 4.12, 4.04]),
        "mamba2": made([5.0, 5.3, 4.9]),
        "ttt-mlp": made([6.0]),
    }
    told = differences(compared(runs))
    assert "(higher, p = " in told["transformer"] and "(lower, p = " in told["samba"]
    assert "(n.s., p = " in told["mamba2"] and told["ttt-mlp"] == "+1 (one pair)"
    assert differences({}) == {}


def test_small_figure_niah(corpus, narrow, counted, tmp_path):
    study = FigureNiah(
        FigureNiah.Config(
            models=("hope", "transformer"),
            seeds=(0,),
            learning_rates=(1e-3,),
            tasks=("niah-1", "niah-2"),
            corpus=corpus,
            vocab_size=300,
            lessons=(
                Lesson(steps=1, rows=3, length=150, bare=True, tasks=("niah-2",)),
                Lesson(steps=2, rows=2, length=400),
            ),
            answer_room=(12, 12),
            times=(1, 2),
            count=2,
            train=dataclasses.replace(TRAIN, carry=False),
        )
    )
    store = Store(tmp_path / "results", study)
    assert "No model has finished" in status(store).text()
    run_study(store, quiet=True)
    found = status(store)
    assert not found.pending
    scores = found.finding.metrics["models"]["hope"]["accuracy"]["niah-2"]
    assert set(scores) == {"400", "800"} and 0 <= scores["800"]["mean"] <= 1
    lost = dataclasses.replace(found.done["hope-lr0.001-seed0"], metrics=dict(DIVERGED, seconds=1))
    part = study.find(found.done | {"hope-lr0.001-seed0": lost})
    rows = {row[0]: row[1:] for row in part.shown.tables[0].rows}
    assert rows["hope"] == ("diverged", "diverged") and " to " in rows["transformer"][0]
    assert part.metrics["models"]["hope"]["accuracy"]["niah-2"]["800"]["diverged"] == 1
    metrics = found.done["hope-lr0.001-seed0"].metrics
    assert metrics["steps"] == 3 and metrics["accuracy"]["niah-1"]["800"]["count"] == 2
    assert 0 < metrics["answer_loss"] < 20 and "loss of unseen answers" in found.text()
    # texts are filled up to the limit of 800 tokens, or nearly so
    tokens = metrics["accuracy"]["niah-2"]["800"]["tokens"] / 2
    assert 600 < tokens <= 800
    assert "S-NIAH-1 4K" in found.text() and "0.00 to 0.00" in found.text()


def test_loaders_alternate_and_keep_position():
    encode = byte_tokenizer().encode

    def sources():
        for name in ("niah-1", "niah-3"):
            task = TASKS.load(name).tiny()
            yield TextQuestions(task, encode=encode, start=[0], end=0, batch_size=1, seed=1)

    alone = [[next(source).input_ids for _ in range(2)] for source in sources()]
    loader = Mixed(list(sources()))
    turns = [alone[0][0], alone[1][0], alone[0][1], alone[1][1]]
    assert all(torch.equal(next(loader).input_ids, ids) for ids in turns)
    loader.load_state_dict({"batches": 3})
    assert torch.equal(next(loader).input_ids, alone[1][1])


def test_lessons_run_in_order_and_the_last_continues():
    task = Bare(Bare.Config(length=100, answer_room=12), material=made_prose())

    def source(seed):
        shape = {"encode": byte_tokenizer().encode, "start": [0], "end": 0, "batch_size": 1}
        return TextQuestions(task, seed=seed, **shape)

    alone = {seed: [next(one).input_ids for one in [source(seed)] * 2] for seed in (1, 2, 3)}
    wanted = [*alone[1], alone[2][0], *alone[3]]
    loader = Course([(source(1), 2), (source(2), 1), (source(3), 1)])
    assert all(torch.equal(next(loader).input_ids, ids) for ids in wanted)
    loader.load_state_dict({"batches": 1})
    assert all(torch.equal(next(loader).input_ids, ids) for ids in wanted[1:])


def test_bare_text_is_value_filler_and_question_end(corpus):
    task = Bare(Bare.Config(length=200, answer_room=12), material=load_corpus(corpus))
    for question in task.examples(0, 5):
        (value,) = question.answers
        assert question.prompt.startswith(f"is: {value}. ") and question.prompt.endswith(". is:")
        assert 100 < len(question.prompt) <= 188


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_room": (12,)}, "one answer_room per task"),
        ({"lessons": ()}, "give at least one"),
        (
            {"lessons": (Lesson(steps=1, rows=1, length=8, tasks=("niah-4",)),)},
            "'niah-4', which is not among",
        ),
    ],
)
def test_invalid_grid_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        FigureNiah.Config(**options)


def test_lesson_without_rows_is_refused():
    with pytest.raises(UserError, match="rows of a lesson is 0"):
        Lesson(steps=1, rows=0, length=8)


def test_best_rate_of_each_model_is_used_next():
    def cell(model, rate, seed):
        return study.cell("hope", rate, seed)._replace(name=f"{model}-{rate}-{seed}")

    study = FigureLm()
    tuned = Tuned(
        models=("a", "b"), settings=lambda model: (1.0, 2.0, 3.0), seeds=(0, 1), cell=cell,
        loss=lambda r: r.metrics["loss"],
    )  # fmt: skip
    losses = {1.0: 3.0, 2.0: 1.0, 3.0: math.inf}
    done = {
        f"a-{rate}-0": Result(name="", config={}, metrics={"loss": x}) for rate, x in losses.items()
    }
    assert (
        len(tuned.cells({})) == 6 and tuned.best("b", done) is None and tuned.best("a", done) == 2.0
    )
    assert [c.name for c in tuned.cells(done)][6:] == ["a-2.0-1"]
    assert (
        is_edge(1.0, (1.0, 2.0)) and not is_edge(2.0, (1.0, 2.0, 3.0)) and not is_edge(1.0, (1.0,))
    )
    assert list(tuned.best_runs("a", done)) == [0] and tuned.best_runs("b", done) == {}
