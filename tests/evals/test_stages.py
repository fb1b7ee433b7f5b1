"""Learning stage by stage: the questions, and forgetting, by reading and by training."""

import importlib.util

import pytest
from readers import llama, reader, sharpened

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.answer import answer_to, room_of
from nestling.evals.figures import figures
from nestling.evals.fit import by_training
from nestling.evals.requests import Memory
from nestling.evals.stages import Learned, ask_stages, by_reading, figures_of
from nestling.tasks import TASKS, Question, Stage, StageTask
from nestling.train import TrainConfig

STAGED = [name for name in TASKS.names() if issubclass(TASKS.load(name), StageTask)]
WORDS = {"a": ("red", "green"), "b": ("blue", "pink")}
CHOICES = ("red", "green", "blue", "pink")


class Colours(StageTask):
    """Each letter's two words, one stage a letter."""

    kind = "choose"
    chance = 1 / 4

    @classmethod
    def tiny(cls):
        return cls()

    def stages(self, seed):
        return [
            Stage(
                name,
                tuple(Question(f"{name}{i} is", (word,)) for i, word in enumerate(words)),
                tuple(Question(f"{name}{i} is", (word,), CHOICES) for i, word in enumerate(words)),
            )
            for name, words in WORDS.items()
        ]

    def blind(self, rng, question):
        return rng.randrange(4)


class Forgetful(Learned):
    """Knows the last stage only."""

    def __init__(self, last):
        self.last, self.ids, self.seen = last, [1, 2, 3], [3]

    def ask(self, task, questions):
        right = [q.choices.index(q.answers[0]) for q in questions]
        knows = [q.prompt.startswith(self.last) for q in questions]
        return [place if known else place - 1 for place, known in zip(right, knows, strict=True)]


def test_all_stages_so_far_are_tested_after_each_stage():
    told = []
    found = ask_stages(
        Colours(), lambda t, stage: Forgetful(stage.name), tell=lambda *done: told.append(done)
    )
    assert found["table"] == [[1.0], [0.0, 1.0]]
    assert (found["score"], found["learned"], found["forgotten"]) == (0.5, 1.0, 1.0)
    assert found["stages"] == ["a", "b"] and found["chance"] == 0.25
    assert found["tokens"] == 3 and found["tokens_seen"] == 1
    assert told == [(done, 6) for done in range(1, 7)]
    assert ask_stages(Colours(), lambda t, s: Forgetful("b"), count=1)["count"] == 2


def test_forgetting_is_measured_from_the_best_score():
    last = figures([1.0, 0.0, 1.0, 1.0], 0.25)
    found = figures_of([[0.5], [1.0, 0.5], [0.25, 0.5, 1.0]], last)
    assert 0 < found["low_95"] < 0.75 < found["high_95"] < 1 and found["count"] == 4
    assert found["forgotten"] == pytest.approx((0.75 + 0.0) / 2)


@pytest.mark.parametrize("kind", ["hope-tiny", "llama"])
def test_reading_puts_the_lessons_before_the_question(kind):
    found, task = reader(kind), Colours()
    stages = task.stages(0)
    learn = by_reading(found, task)
    for t, stage in enumerate(stages):
        learned = learn(t, stage)
    text = "a0 is red\na1 is green\nb0 is blue\nb1 is pink\n"
    own = Learned(found)
    own.ids = found.start + found.encode(text)
    questions = [question for stage in stages for question in stage.ask]
    first = list(learned.ask(task, questions))
    assert first == list(own.ask(task, questions)) and first == list(learned.ask(task, questions))


class Written(Colours):
    """Answers are written."""

    kind = "generate"
    new_tokens = 6


class Likely(Colours):
    """Answers are likelihoods."""

    kind = "perplexity"


@pytest.mark.parametrize("asked", (Colours, Written, Likely))
@pytest.mark.parametrize("kind", ["hope-tiny", "transformer-tiny", "llama"])
def test_shared_lesson_prefix_equals_rereading(kind, asked, monkeypatch):
    found, sizes, task = reader(kind), [], asked()
    stages, learned, read = task.stages(0), Learned(found), Reader.read

    def counted(self, ids, cache=None):
        sizes.append(ids.numel())
        return read(self, ids, cache)

    monkeypatch.setattr(Reader, "read", counted)
    questions = [question for stage in stages for question in stage.ask] * 3
    for stage in stages:
        learned.read(stage.learn)
        answers = list(learned.ask(task, questions))
    # all questions twice, once per stage, and no lesson twice
    prompts = sum(len(found.encode(question.prompt)) for question in questions)
    assert sum(sizes) <= len(learned.ids) + 2 * prompts
    afresh = [
        answer_to(Memory(found), task, learned.ids + found.encode(question.prompt), question)
        for question in questions
    ]
    assert answers == (pytest.approx(afresh, rel=1e-4) if asked is Likely else afresh)


@pytest.mark.parametrize("asked", (Colours, Written))
def test_over_long_lessons_are_truncated_at_the_start(asked):
    found = Reader(sharpened(llama(positions=48)), byte_tokenizer(), name="small", segment=7)
    task = asked()
    stages = task.stages(0)
    learned = Learned(found)
    questions = stages[0].ask + (Question("and which is it", ("red",), CHOICES),)
    room = max(room_of(found, task, question) for question in questions)
    for stage in stages:
        learned.read(stage.learn)
        answers = list(learned.ask(task, questions))
        # the same end of the lessons for the longest question and for the others
        end = learned.ids[room - 48 :]
        assert learned.seen == end
        assert answers == [
            answer_to(Memory(found), task, end + found.encode(question.prompt), question)
            for question in questions
        ]
    long = Question("x" * 60, ("red",), CHOICES)
    assert len(list(learned.ask(task, [long]))) == 1 and learned.seen == []


def test_training_learns_and_forgets_lessons():
    found, task = reader("transformer-tiny", segment=64), Colours()
    config = TrainConfig(steps=40, batch_size=2, learning_rate=1e-2, schedule="constant")
    figures = ask_stages(task, by_training(found, task, config))
    assert figures["learned"] > 0.7
    with pytest.raises(UserError, match="not a nestling model"):
        by_training(reader("llama"), task, config)


@pytest.mark.parametrize("name", STAGED)
def test_every_stage_task_runs(name):
    task = TASKS.load(name).tiny()
    if task.match == "chrf" and importlib.util.find_spec("sacrebleu") is None:
        pytest.skip("sacrebleu is not installed (nestling[eval])")
    found = ask_stages(task, by_reading(reader("transformer-tiny", segment=512), task), count=1)
    stages = len(task.stages(0))
    assert len(found["table"]) == stages and len(found["table"][-1]) == stages
    assert all(0 <= score <= 1 for row in found["table"] for score in row)
