"""Running a model on a task by name, and the record of it."""

import pytest
import torch
from readers import ids_of, reader

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.data import byte_tokenizer
from nestling.evals.fit import fit, rows_of
from nestling.evals.questions import Lessons, TextQuestions, as_rows
from nestling.evals.run import Plan, make_task, measure, plan_of, run_tasks
from nestling.evals.suite import suite, suite_names
from nestling.models.folder import save_model
from nestling.tasks import IGNORED, TASKS, Question
from nestling.train import TrainConfig

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "intermediate_size": 32}
TINY = {"keys": 3, "values": 4, "period": 2}


def test_preset_trains_on_token_task_and_is_measured(tmp_path):
    plan = plan_of(
        ["recall"], TINY | SMALL | {"batch_size": 8, "learning_rate": 1e-2}, fit=60, count=30
    )
    assert plan.options == TINY and plan.model == SMALL and plan.fit.steps == 60
    result = run_tasks("transformer-tiny", ["recall"], plan)
    again = Result.read(result.write(tmp_path / "r.json"))
    found = again.metrics["tasks"]["recall"]
    assert found["fit"]["last_loss"] < found["fit"]["first_loss"]
    assert found["count"] == 30 and found["chance"] == 0.25 and found["version"] == 1
    assert again.config["kind"] == "hope" and again.config["options"] == TINY


def test_saved_model_is_measured_at_each_length(tmp_path):
    made = reader("hope-tiny")
    save_model(made.model, made.tokenizer, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    said = []
    plan = plan_of(["recall"], TINY, count=5)
    result = run_tasks(str(tmp_path / "m"), ["recall"], plan, say=said.append)
    assert result.metrics["tasks"]["recall"]["score"] <= 1 and said == ["recall"]
    with pytest.raises(UserError, match="unknown option 'length' of recall"):
        run_tasks(str(tmp_path / "m"), ["recall"], Plan(lengths=(64,)))
    with pytest.raises(UserError, match="its own tokens"):
        run_tasks(str(tmp_path / "m"), ["recall"], plan_of(["recall"], TINY, fit=2))
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_difficulties_are_measured_separately_and_jointly():
    options = {"length": 40, "train_examples": 8, "batch_size": 2, **SMALL}
    plan = plan_of(["mad-recall"], options, fit=1, count=4, sweep=True)
    said = []
    found = run_tasks("lstm-tiny", ["mad-recall"], plan, say=said.append)
    parts = found.metrics["tasks"]["mad-recall"]["parts"]
    assert list(parts)[:2] == ["", "vocab_size 32"] and len(said) == len(parts) > 4
    scores = [part["score"] for part in parts.values()]
    mean = found.metrics["tasks"]["mad-recall"]["mean_score"]
    assert mean == pytest.approx(sum(scores) / len(scores))
    with pytest.raises(UserError, match="one sweep"):
        plan_of(["niah-1"], {}, lengths=(64,), sweep=True)


def test_fixed_rows_are_read_in_epochs():
    task = make_task("mad-recall", {"train_examples": 6, "length": 16, "vocab_size": 16})
    loader = rows_of(task, TrainConfig(batch_size=3, seed=2))
    rounds = [torch.cat([next(loader).input_ids, next(loader).input_ids]) for _ in range(2)]
    assert not torch.equal(*rounds)
    assert sorted(rounds[0].tolist()) == sorted(rounds[1].tolist())
    other = rows_of(task, TrainConfig(batch_size=3, seed=2))
    other.load_state_dict({"batches": 2})
    assert torch.equal(next(other).input_ids, rounds[1][:3])


def test_text_task_trains_and_is_measured():
    found = reader("transformer-tiny", segment=256)
    task = TASKS.load("niah-1").tiny()
    plan = Plan(count=2, fit=TrainConfig(steps=2, batch_size=1))
    figures = measure(found, task, plan)
    assert figures["fit"]["steps"] == 2 and 0 <= figures["score"] <= 1
    assert figures["seconds_fit"] > 0


def test_mistakes_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="neither a folder with a model nor a preset"):
        run_tasks("hope-tinny", ["recall"], Plan())
    with pytest.raises(UserError, match="add|with --fit"):
        run_tasks("hope-tiny", ["recall"], Plan())
    with pytest.raises(UserError, match="add --fit"):
        plan_of(["recall"], {"batch_size": 4})
    with pytest.raises(UserError, match="did you mean 'keys'"):
        plan_of(["recall"], {"keyz": 4})
    with pytest.raises(UserError, match="keys of recall must be int"):
        make_task("recall", {"keys": "3"})
    with pytest.raises(UserError, match="not a nestling model"):
        fit(reader("llama"), make_task("recall", {}), TrainConfig(steps=1))


def test_text_lengths_are_in_reader_tokens():
    found = reader("llama")
    assert make_task("niah-1", {"length": 600}, found).count("abc") == len(found.encode("abc"))
    assert make_task("niah-1", {}).count("abc") == 3


def test_suites_are_name_prefixes_and_named_sets():
    assert "niah" in suite_names() and suite("niah")[0] == "niah-1" and len(suite("niah")) == 8
    assert suite("recall")[0] == "recall" and suite("niah-2") == ["niah-2"]
    assert set(suite("paper-niah")) <= set(TASKS.names())
    with pytest.raises(UserError, match="did you mean 'niah'"):
        suite("nia")


def text_loader(kind, *more, **shape):
    found = reader("hope-tiny")
    words = {"encode": found.encode, "start": [0], "end": 0}
    return kind(*more, **words, **shape)


def test_rows_have_labels_on_the_answer_and_its_end_only():
    task = TASKS.load("niah-1").tiny()
    encode = reader("hope-tiny").encode
    asked = [Question("ab", ("cd",)), Question("a", ("b", "c"))]
    batch = as_rows(task, asked, encode=encode, start=[0], end=0)
    rows = [[0, *encode("ab cd")], [0, *encode("a b, c")]]
    for i, (row, begin) in enumerate(zip(rows, (3, 2), strict=True)):
        size = len(row)
        assert batch.input_ids[i, :size].tolist() == row and batch.mask[i].sum() == size
        assert batch.labels[i, begin - 1 : size].tolist() == [*row[begin:], 0]
        assert set(batch.labels[i, size:].tolist()) | {IGNORED} == {IGNORED}
        assert set(batch.labels[i, : begin - 1].tolist()) | {IGNORED} == {IGNORED}
    assert batch.reset[:, 0].all() and batch.reset.sum() == 2


@pytest.mark.parametrize("kind", [TextQuestions, Lessons])
def test_text_loaders_restore_their_position(kind):
    task = TASKS.load("niah-1").tiny()
    more = [task] if kind is TextQuestions else [task, task.examples(0, 5)]
    loader, other = (text_loader(kind, *more, batch_size=2, seed=3) for _ in range(2))
    for _ in range(3):
        state = loader.state_dict()
        last = next(loader)
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(next(other), last, strict=True))


def test_lessons_come_once_per_epoch():
    task = TASKS.load("niah-1").tiny()
    lessons = [Question(letter, ("x",)) for letter in "abcdef"]
    loader = text_loader(Lessons, task, lessons, batch_size=3, seed=0)
    for _ in range(2):
        rows = torch.cat([next(loader).input_ids, next(loader).input_ids])
        assert sorted(rows[:, 1].tolist()) == sorted(ids_of(reader("hope-tiny"), "abcdef")[1:])
    assert len(byte_tokenizer()) == 258


def test_unsupported_task_in_a_list_gets_a_note(tmp_path):
    made = reader("transformer-tiny")
    save_model(made.model, made.tokenizer, tmp_path / "m")
    plan, said = Plan(count=2), []
    found = run_tasks(str(tmp_path / "m"), ["recall-mqar", "formal-parity"], plan, say=said.append)
    noted = found.metrics["tasks"]["recall-mqar"]
    assert noted["score"] is None and "larger vocabulary" in noted["note"] and len(said) == 3
    assert found.metrics["tasks"]["formal-parity"]["count"] == 2
    with pytest.raises(UserError, match="larger vocabulary"):
        run_tasks(str(tmp_path / "m"), ["recall-mqar"], plan)
