"""Memories over HTTP: create, learn, fork, transfer, undo, and interrupted learning."""

import errno
import shutil
import sqlite3

import pytest
import torch
from serving import QUICK, learn, put, say, started, tiny_stacked, told

from nestling.continual import ContinualLearner
from nestling.continual.consolidate import Plan as Rest
from nestling.continual.file import read_memory
from nestling.continual.opening import open_learner
from nestling.continual.study.record import change_tensors
from nestling.models.pretrained import parse_levels
from nestling.serve.database import SCHEMA, Database
from nestling.serve.jobs import Jobs
from nestling.serve.keys import anyone
from nestling.serve.library import Memory
from nestling.serve.model import serve_model

ONE = "The inlet filter is cleaned every eleven weeks. Nobody may open the pump."
TWO = "The outlet valve was made in Padua. It is painted green."


def memories(http):
    return [one["id"] for one in http.get("/v1/memories").json()["data"]]


def file_of(http, memory, folder):
    file = folder / f"{memory}.memory"
    file.write_bytes(http.get(f"/v1/memories/{memory}/file").content)
    return file


def drawn(http, memory=None):
    """A sampled continuation, which shows a change of the weights where the likeliest may not.

    Of a text that concerns both documents as much, the latest is used.
    """
    prompt = "The filter and the valve"
    return say(http, memory, prompt, temperature=1.0, seed=0, max_tokens=40)


def test_memory_life_cycle(http, served, tmp_path):
    made = http.post("/v1/memories", json={"id": "notes"})
    assert made.status_code == 201 and made.json()["documents"] == []
    assert http.post("/v1/memories", json={"id": "notes"}).status_code == 409
    plain = drawn(http, "notes")
    assert plain == drawn(http)

    events = learn(http, "notes", ONE, "one.txt")
    assert [event["what"] for event in events if "what" in event] == [
        "making questions", *["studying"] * 3, "asking questions",
    ]  # fmt: skip
    asked = [question for event in events for question in event.get("questions", ())]
    assert "Nobody" in {question["answer"] for question in asked}
    assert events[-1]["state"] == "done" and events[-1]["figures"]["asked"] > 0
    shown = http.get("/v1/memories/notes").json()
    assert [one["name"] for one in shown["documents"]] == ["one.txt"]
    assert learn(http, "notes", ONE)[-1]["message"] == "this text was learned before"

    # the command line finds the same content in its file
    file = file_of(http, "notes", tmp_path)
    learner = open_learner(served.learner.base, file)
    for prompt in ("hello", "The filter"):
        assert say(http, "notes", prompt) == learner.generate(prompt, tokens=12)
    before = drawn(http, "notes")
    assert before != plain

    assert http.post("/v1/memories/notes/fork", json={"id": "copy"}).status_code == 201
    learn(http, "copy", TWO)
    assert drawn(http, "notes") == before != drawn(http, "copy")
    assert http.post("/v1/memories/copy/undo").json()["forgotten"] == "text"
    assert drawn(http, "copy") == before
    http.post("/v1/memories/copy/undo")
    assert drawn(http, "copy") == plain
    assert http.post("/v1/memories/copy/undo").status_code == 409

    put_back = http.put("/v1/memories/again/file", content=file.read_bytes())
    assert put_back.status_code == 201 and drawn(http, "again") == before
    assert memories(http) == ["notes", "copy", "again"]
    for name in memories(http):
        assert http.delete(f"/v1/memories/{name}").json()["deleted"]
    assert memories(http) == [] and http.get("/v1/memories/notes").status_code == 404
    library = http.app.state.shared.library
    assert [file.name for file in library.folder.iterdir() if file.suffix != ".lock"] == []


def test_notice_has_the_subject_of_the_document_it_is_about(start, tmp_path):
    with start(tmp_path) as http:
        http.post("/v1/memories", json={"id": "m"})
        learn(http, "m", ONE, "one.txt")
        learn(http, "m", "It is now cleaned by Ekel.", "notice", about="one.txt")
        file = file_of(http, "m", tmp_path)
        first, second = read_memory(file).about["studied"]
        assert first["about"] == second["about"] != ""
        job = learn(http, "m", TWO, about="none.txt")[-1]
        assert job["state"] == "failed" and "no document 'none.txt' was studied" in job["message"]
        assert file_of(http, "m", tmp_path).read_bytes() == file.read_bytes()


def test_registry_of_an_earlier_format_gains_its_columns(tmp_path):
    old = sqlite3.connect(tmp_path / "registry", isolation_level=None)
    for statement in (*SCHEMA.split(";"), "PRAGMA user_version = 1"):
        old.execute(statement)
    old.execute("INSERT INTO memories VALUES (1, '', 'm', 'f', 0, 0)")
    old.execute(
        "INSERT INTO jobs (id, memory, name, state, created) VALUES ('j', 1, 'n', 'done', 0)"
    )
    old.close()
    for _ in range(2):  # the second finds the new format
        database = Database(tmp_path / "registry")
        [job] = Jobs(database, 1).list(Memory(1, "", "m", 0, 0.0, tmp_path))
        assert (job.name, job.about) == ("n", "")
        database.close()


def test_cancelled_job_leaves_its_memory_unchanged(start, tmp_path):
    with start(tmp_path, rows=1) as http:
        http.post("/v1/memories", json={"id": "m"})
        before = file_of(http, "m", tmp_path).read_bytes()
        first, second = put(http, "m", ONE * 9), put(http, "m", TWO)
        assert http.delete(f"/v1/memories/m/jobs/{second}").json()["state"] == "cancelled"
        events = told(http, "m", first)
        while not (asked := next(events).get("questions")):
            pass
        assert next(told(http, "m", first))["questions"] == asked  # late listeners see them
        for refused in (http.delete("/v1/memories/m"), http.post("/v1/memories/m/undo")):
            assert refused.status_code == 409
        assert say(http, "m") == say(http)  # meanwhile it answers as before
        assert http.delete(f"/v1/memories/m/jobs/{first}").status_code == 200
        assert list(events)[-1]["state"] == "cancelled"
        assert file_of(http, "m", tmp_path).read_bytes() == before
        jobs = http.get("/v1/memories/m/jobs").json()["data"]
        assert [job["state"] for job in jobs] == ["cancelled", "cancelled"]
        [left] = http.app.state.shared.database.all("SELECT count(text) FROM jobs")[0]
        assert left == 0  # no document stays in the registry after its job


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_interrupted_job_resumes_after_restart(start, served, tmp_path, end):
    """A copy of the store during study is what a killed process leaves."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    with start(store) as http:
        http.post("/v1/memories", json={"id": "m"})
        job = put(http, "m", ONE, "one.txt")
        for event in told(http, "m", job):
            if event.get("what") == "studying":
                break
        if end == "killed":
            shutil.copytree(store, copy)
    if end == "stopped":
        shutil.copytree(store, copy)
    with start(copy) as http:
        assert list(told(http, "m", job))[-1]["state"] == "done"
        resumed = read_memory(file_of(http, "m", tmp_path))
    learner = served.teacher.fork()
    learner.read(ONE, name="one.txt")
    [expected] = learner.study(QUICK)
    assert resumed.about["studied"][0]["figures"] == expected.figures
    for name, value in change_tensors(0, expected).items():
        assert torch.equal(resumed.tensors[name], value)


def test_model_with_levels_learns_and_undoes(tmp_path):
    served = serve_model(tiny_stacked(parse_levels("8:1e-1")), name="tiny")
    with started(served, tmp_path) as http:
        http.post("/v1/memories", json={"id": "m"})
        server = http.app.state.shared

        def moved():
            memory = server.library.find(anyone().space, "m")
            base, known = (server.known(one, "hello").weights for one in (None, memory))
            return sum(float((known[name] - base[name]).abs().sum()) for name in base)

        assert say(http, "m") == say(http) and moved() == 0
        event = learn(http, "m", ONE, "one.txt")[-1]
        assert event["state"] == "done" and event["figures"]["loss"] > 0
        assert f"{len(ONE) % 8 + 1} tokens" in event["message"]  # and one that begins the text
        assert http.get("/v1/memories/m").json()["levels"][0]["writes"] == len(ONE) // 8
        assert say(http, "m") and moved() > 0
        assert http.post("/v1/memories/m/undo").json()["forgotten"] == "one.txt"
        assert say(http, "m") and moved() == 0


def test_prompt_uses_the_document_that_it_concerns(start, tmp_path):
    with start(tmp_path) as http:
        http.post("/v1/memories", json={"id": "m"})
        for text, name in ((ONE, "one.txt"), (TWO, "two.txt")):
            learn(http, "m", text, name)
        server = http.app.state.shared
        memory = server.library.find(anyone().space, "m")
        learner = server.served.learner.fork()
        learner.load(memory.file)
        for text, own in zip((ONE, TWO), learner.state.studied, strict=True):
            for prompt in (text, f"What else? {text}"):
                known, expected = server.known(memory, prompt), learner.weights_of(own)
                if known.added is None:
                    found = known.weights
                else:
                    found = learner.weights(studied=[own._replace(change=known.added.change)])
                assert found.keys() == expected.keys()
                assert all(map(torch.equal, found.values(), expected.values()))
        nothing = server.known(memory, "???")
        assert nothing.added is None and nothing.before is not None
        assert say(http, "m", "???") == say(http, prompt="???")


def test_full_disk_fails_the_job_without_loss(start, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with start(tmp_path) as http:
        http.post("/v1/memories", json={"id": "m"})
        before = file_of(http, "m", tmp_path).read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(ContinualLearner, "save", full)
            event = learn(http, "m", ONE)[-1]
            assert event["state"] == "failed" and "No space left" in event["message"]
            assert file_of(http, "m", tmp_path).read_bytes() == before
            patch.setattr(Jobs, "end", lambda *_: full())
            patch.setattr("nestling.serve.school.AGAIN", 0.01)
            job = put(http, "m", ONE)
        # the learning thread is still alive
        assert list(told(http, "m", job))[-1]["state"] in ("failed", "done")
        assert learn(http, "m", TWO)[-1]["state"] == "done"


def test_memory_and_job_limits(start, tmp_path):
    with start(tmp_path, memories=2, jobs=1, document=100) as http:
        made = [http.post("/v1/memories").status_code for _ in range(3)]
        assert made == [201, 201, 409]
        [name, _] = memories(http)
        place = f"/v1/memories/{name}/jobs"
        for text, status in [("a" * 101, 413), (" \n", 400), ("a\0b", 400), ("", 422)]:
            assert http.post(place, json={"text": text}).status_code == status
        job = put(http, name, ONE)
        assert http.post(place, json={"text": TWO}).status_code == 429
        http.delete(f"{place}/{job}")


def test_compare_and_merge_two_memories(http, served, tmp_path):
    for name, text in (("left", ONE), ("right", TWO)):
        http.post("/v1/memories", json={"id": name})
        learn(http, name, text, f"{name}.txt")
    found = http.get("/v1/memories/left/compare/right").json()
    assert found["documents"] == {"left": ["left.txt"], "right": ["right.txt"]}
    merged = http.post("/v1/memories/left/merge", json={"others": ["right"], "id": "both"})
    assert merged.status_code == 201
    assert [one["name"] for one in merged.json()["documents"]] == ["left.txt", "right.txt"]
    # its content is the sum of both
    base = served.learner.weights()
    parts = [
        open_learner(served.learner.base, file_of(http, m, tmp_path)) for m in ("left", "right")
    ]
    both = open_learner(served.learner.base, file_of(http, "both", tmp_path)).weights()
    start = dict(served.learner.reader.model.named_parameters())
    assert both
    for name, value in both.items():
        moved = sum(one.weights()[name] - base.get(name, start[name]) for one in parts)
        torch.testing.assert_close(value - base.get(name, start[name]), moved, rtol=1e-3, atol=1e-5)
    assert http.post("/v1/memories/left/merge", json={"others": ["left"]}).status_code == 400
    assert http.post("/v1/memories/left/merge", json={"others": ["nobody"]}).status_code == 404
    told = http.get("/v1/memories/both").json()["boxes"]
    read = len(ONE) + len(TWO) + 2  # bytes are tokens here, and one begins each text
    assert [one["written"] for one in told][:2] == ["never here", "2 times"]
    assert told[2]["written"] == f"{read} tokens, then emptied"
    # each document's change is a separate level: there is nothing to consolidate
    refused = http.post("/v1/memories/both/jobs/consolidate")
    assert refused.status_code == 400 and "no levels" in refused.json()["error"]["message"]


def test_consolidation_runs_in_the_queue(tmp_path):
    served = serve_model(tiny_stacked(parse_levels("8:1e-1,16:1e-1")), name="tiny")
    with started(served, tmp_path / "store") as http:
        http.app.state.shared.school.rest = Rest(budget=96, batch=32, length=16)
        http.post("/v1/memories", json={"id": "m"})
        learn(http, "m", ONE)
        writes = [one["writes"] for one in http.get("/v1/memories/m").json()["levels"]]
        knew = say(http, "m")
        job = http.post("/v1/memories/m/jobs/consolidate")
        assert job.status_code == 202 and job.json()["name"] == "consolidation"
        last = list(told(http, "m", job.json()["id"]))[-1]
        assert last["state"] == "done", last
        assert last["figures"]["writes"] > 0 and last["figures"]["tokens"] == 96
        now = [one["writes"] for one in http.get("/v1/memories/m").json()["levels"]]
        assert min(writes) > 0 and now[0] == writes[0] and now[1] == 0
        assert http.post("/v1/memories/m/undo").status_code == 200
        assert say(http, "m") == knew
