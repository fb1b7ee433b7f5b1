"""Scores with intervals, of single examples and pooled."""

import pytest
import torch

from nestling.evals.figures import judged_rows, judged_texts, pooled
from nestling.tasks import TASKS, UNSEEN


def test_pooled_score_has_a_bootstrap_interval():
    values = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] * 20
    found = pooled(lambda places: sum(values[i] for i in places) / len(places), [60, 60])
    half = 1.96 * (0.35 / 3 / 120) ** 0.5  # of a mean, by the spread of the values
    assert found["score"] == pytest.approx(0.5)
    assert found["low_95"] == pytest.approx(0.5 - half, abs=half / 2)
    assert found["high_95"] == pytest.approx(0.5 + half, abs=half / 2)
    right = pooled(lambda places: 1.0, [6])
    assert right["high_95"] == 1.0 and 0.5 < right["low_95"] < 1
    alone = pooled(lambda places: 1.0, [1])
    assert alone == {"score": 1.0, "low_95": None, "high_95": None}


def test_bootstrap_resamples_within_groups():
    drawn = []
    pooled(lambda places: drawn.append(list(places)) or 0.0, [2, 3])
    assert drawn[0] == [0, 1, 2, 3, 4]
    assert all(max(one[:2]) < 2 <= min(one[2:]) and len(one) == 5 for one in drawn)
    assert len({tuple(one) for one in drawn}) > 5


def test_pooled_task_reports_published_and_mean_scores():
    task = TASKS.load("mad-recall").tiny()
    _, labels = task.examples(UNSEEN, 30)
    answers = torch.where(torch.arange(30)[:, None] % 2 > 0, labels, 5)
    found = judged_rows(task, answers, labels)
    assert found["score"] == task.score(answers, labels) != found["share"]
    assert found["low_95"] < found["score"] < found["high_95"] and found["count"] == 30


def test_text_scores_are_means_unless_pooled():
    pytest.importorskip("sacrebleu.metrics")
    task = TASKS.load("translation-invented").tiny()
    asked = task.stages(0)[0].ask
    said = [question.answers[0][: 4 + i] for i, question in enumerate(asked)]
    found = judged_texts(task, said, asked)
    assert found["score"] == task.score(said, asked) and found["mean"] != found["score"]
    plain = TASKS.load("niah-1").tiny()
    asked = plain.examples(UNSEEN, 2)
    found = judged_texts(plain, [asked[0].answers[0], ""], asked)
    assert found["score"] == 0.5 and "mean" not in found
