"""Text and questions are mixed as specified, and reports match the results."""

import pytest
import torch

from nestling.core.result import Result
from nestling.tasks import IGNORED
from nestling.tasks.recall import Recall
from nestling.train import TrainConfig
from nestling_lab.studies.in_text import InText
from nestling_lab.studies.recall_after_text import RecallAfterText

TASK = Recall.tiny()
TEXT = torch.randint(0, 50, (4000,), generator=torch.Generator().manual_seed(0))


def loader(**options) -> InText:
    defaults = {"batch_size": 3, "length": 40, "spans": (1, 3), "thin": 4, "seed": 5}
    return InText(TASK, TEXT, **(defaults | options))


def parts(batch, begin: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the task and of the text, with the sequence starting at ``begin``."""
    inside = slice(begin, begin + TASK.length)
    outside = torch.cat((batch.input_ids[:, :begin], batch.input_ids[:, begin + TASK.length :]), 1)
    return batch.input_ids[:, inside], outside


def begin_of(batch) -> int:
    return int((batch.input_ids[0] < TASK.vocab_size).int().argmax())


def test_sequence_is_embedded_in_text():
    source = loader(spans=(4,))
    batches = [next(source) for _ in range(4)]
    assert [bool(batch.reset[:, 0].all()) for batch in batches] == [True, False, False, False]
    assert not any(batch.reset[:, 1:].any() for batch in batches)
    read = []
    for number, batch in enumerate(batches, start=1):
        told, around = parts(batch, begin_of(batch))
        examples = TASK.examples(5 * 1_000_003 + number, 3)
        assert torch.equal(told, examples.input_ids)
        begin = begin_of(batch)
        assert torch.equal(batch.labels[:, begin : begin + TASK.length], examples.labels)
        read.append(around - TASK.vocab_size)
    assert len({begin_of(batch) for batch in batches}) > 1
    for row in torch.cat(read, 1):
        windows = TEXT.unfold(0, len(row), 1)
        assert (windows == row).all(1).any(), "the text of a row is not in one piece"


def test_text_labels_are_next_tokens():
    asked = total = 0
    source = loader(thin=2)
    for _ in range(30):
        batch = next(source)
        begin = begin_of(batch)
        spans = (0, begin), (begin + TASK.length, batch.input_ids.shape[1])
        for first, end in spans:
            here = batch.labels[:, first:end]
            inner = slice(first + 1, end)
            known = here[:, :-1] != IGNORED if end > first else here != IGNORED
            assert torch.equal(here[:, :-1][known], batch.input_ids[:, inner][known])
            asked += int((here != IGNORED).sum())
            total += here.numel()
        if begin:
            assert (batch.labels[:, begin - 1] == IGNORED).all()
    assert 0.4 < asked / total < 0.55


def test_loader_position_can_be_saved():
    first, other = loader(), loader()
    for _ in range(3):
        next(first)
    other.load_state_dict(first.state_dict())
    for _ in range(4):
        for one, two in zip(next(first), next(other), strict=True):
            assert torch.equal(one, two)


@pytest.fixture
def small() -> RecallAfterText:
    task = Recall.Config(keys=3, values=4, period=4)
    shape = {"steps": 1, "batch_size": 2, "save_every": 0}
    return RecallAfterText(
        RecallAfterText.Config(
            seeds=(0,),
            overrides={
                "num_hidden_layers": 1,
                "hidden_size": 16,
                "num_heads": 2,
                "period": 4,
                "projection_period": 4,
            },
            task=task,
            test_count=4,
            marks=(16, 48),
            alone=TrainConfig(sequence_length=Recall(task).length, carry=False, **shape),
            in_text=TrainConfig(sequence_length=32, **shape),
        )
    )


def test_small_study_runs(small):
    result = small.run(small.cell(0))
    for stage in ("alone", "in_text"):
        assert set(result.metrics[stage]["accuracy"]) == {"0", "16", "48"}
        assert set(result.metrics[stage]["reach"]) == {
            f"0.{name}" for name in ("k", "eta", "alpha", "v", "memory")
        }
    assert result.corpus.startswith("stdlib")
    finding = small.find({"seed0": result})
    metrics = finding.metrics
    lost = 100 * (metrics["accuracy_before"][0] - metrics["accuracy_after"][0])
    assert metrics["points_lost"] == [pytest.approx(lost)]
    assert len(finding.sections[1].tables[0].rows) == 2


def test_diverged_run_is_excluded_and_named(small):
    cell = small.cell(0)
    metrics = {"diverged": True, "reason": "loss is nan at step 3", "chance": 0.25}
    result = Result(name=cell.name, config=cell.config, metrics=metrics, seed=0)
    finding = small.find({"seed0": result})
    assert finding.metrics["diverged"] == [0] and finding.metrics["points_lost"] == []
    means, runs = (part.tables[0] for part in (finding.shown, finding.sections[1]))
    assert means.rows[0][1:] == ("diverged",) * 3 and "diverged" in runs.text()
