"""Conformance tests for every registered task, at its tiny size."""

import functools
import hashlib
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from variation import as_written

from nestling.core.error import UserError
from nestling.tasks import IGNORED, TASKS, UNSEEN, QuestionTask, StageTask, TextTask, TokenTask

every_task = pytest.mark.parametrize("name", TASKS.names())
COUNT = 40
RECORD = Path(__file__).parent / "versions.json"


def tiny(name: str):
    return TASKS.load(name).tiny()


def drawn(task, seed: int, count: int = COUNT):
    """Examples in the form in which ``score`` takes them: labels, or questions."""
    if isinstance(task, TokenTask):
        return task.examples(seed, count).labels
    if isinstance(task, StageTask):
        return [question for stage in task.stages(seed) for question in stage.ask]
    return task.examples(seed, count)


def printed(name: str, seed: int) -> str:
    """All examples of a seed, as text."""
    task = tiny(name)
    if isinstance(task, TokenTask):
        return str([part.tolist() for part in task.examples(seed, 5)])
    return str(task.stages(seed) if isinstance(task, StageTask) else task.examples(seed, 5))


@every_task
def test_task_has_a_form_and_a_source(name):
    task = tiny(name)
    assert isinstance(task, TokenTask | QuestionTask | StageTask)
    assert task.kind in ("positions", "generate", "choose", "perplexity")
    assert (task.kind == "positions") == isinstance(task, TokenTask)
    assert len(task.source) > 5 and task.version >= 1
    assert 0 <= task.chance < 1
    assert (inspect.getdoc(TASKS.load(name)) or "").partition("\n")[0][-1] in ".?"


@every_task
def test_the_oracle_scores_one(name):
    task = tiny(name)
    if isinstance(task, TokenTask):
        input_ids, labels = task.examples(UNSEEN, COUNT)
        assert task.score(task.oracle(input_ids), labels) == 1.0
        assert (task.scores(task.oracle(input_ids), labels).nan_to_num(1) == 1).all()
        assert labels.max() < task.vocab_size and input_ids.min() >= 0
        assert input_ids.max() < task.vocab_size
    else:
        questions = drawn(task, 0)
        assert task.score(task.oracle(questions), questions) == 1.0


@every_task
def test_guesses_score_chance(name):
    """Within four and a half standard errors of the mean, found from the scores of the examples.

    Three would be passed by one of fifty tasks at some seed. Of what is scored together only parts
    have a score: a twentieth of the examples each, or one.
    """
    task = tiny(name)
    count = (5000 if task.pooled else 1000) if isinstance(task, TokenTask) else COUNT
    examples = drawn(task, UNSEEN + 1, count)
    answers = task.guess(7, examples)
    if task.pooled:
        size = max(1, len(examples) // 20)
        cuts = [slice(at, at + size) for at in range(0, len(examples), size)]
        scores = torch.tensor([task.score(answers[cut], examples[cut]) for cut in cuts]).double()
    else:
        scores = torch.as_tensor(task.scores(answers, examples)).double()
        scores = scores[~scores.isnan()]
    # at least the spread of 0/1 scores with this mean
    least = 0.0 if task.pooled else math.sqrt(task.chance * (1 - task.chance))
    spread = max(scores.std().item(), least, 1e-3)
    mean = scores.mean().item()
    assert abs(mean - task.chance) < 4.5 * spread / math.sqrt(len(scores)), (mean, task.chance)


@functools.cache
def digests() -> str:
    """A line for each task: its name and the hash of a seed's examples."""
    names = TASKS.names()
    return "\n".join(f"{n} {hashlib.sha256(printed(n, 3).encode()).hexdigest()}" for n in names)


@as_written
def test_version_pins_the_bytes():
    """Examples of a seed are recorded; if they change, raise the version and record them again."""
    recorded = json.loads(RECORD.read_text())
    found = {}
    for line in digests().splitlines():
        name, digest = line.split()
        found[name] = [TASKS.load(name).version, digest[:16]]
    assert found == recorded, json.dumps(found, indent=1)


@as_written
def test_same_seed_same_bytes_in_another_process():
    places = [str(Path(__file__).parent), *sys.path]
    code = f"import sys; sys.path = {places!r}\n"
    code += "from test_table import digests\nprint(digests())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digests()


@every_task
def test_other_seeds_differ(name):
    assert printed(name, 0) != printed(name, 1)


@every_task
def test_train_and_test_are_disjoint(name):
    task = tiny(name)
    if isinstance(task, StageTask):
        stages = task.stages(0)
        learned = {question.as_lesson for stage in stages for question in stage.learn}
        asked = {question.as_lesson for stage in stages for question in stage.ask}
    elif isinstance(task, QuestionTask):
        learned, asked = ({(q.prompt, q.answers) for q in drawn(task, s)} for s in (0, UNSEEN))
    else:
        learned, asked = (
            {tuple(row) for row in task.examples(seed, COUNT).input_ids.tolist()}
            for seed in (0, UNSEEN)
        )
    assert learned and asked and not learned & asked


@every_task
def test_global_rng_is_untouched(name):
    before = torch.random.get_rng_state()
    drawn(tiny(name), 0)
    assert torch.equal(before, torch.random.get_rng_state())


@every_task
def test_examples_do_not_depend_on_batching(name):
    task = tiny(name)
    if isinstance(task, QuestionTask):
        one = task.stream(5)
        assert [next(one) for _ in range(3)] == task.examples(5, 3)
        assert task.examples(5, 6)[:3] == task.examples(5, 3)
    assert not isinstance(task, TextTask) or task.scores([], []) == []


def test_unlabelled_rows_have_no_score():
    task = tiny("recall")
    _, labels = task.examples(0, 3)
    labels[1] = IGNORED
    scores = task.scores(labels, labels)
    assert scores.isnan().tolist() == [False, True, False]


def test_unknown_task_is_one_line():
    with pytest.raises(UserError, match="did you mean 'niah-1'"):
        TASKS.load("nia-1")
