"""A chat with a memory that has studied is answered as by `nestling ask`: recalled and checked."""

import asyncio
import copy
import threading

import openai
import pytest
from serving import learn, official, started
from small_student import new_student

from nestling.continual.study import recall, recite
from nestling.continual.study.form import plain
from nestling.continual.study.plan import Plan
from nestling.serve import recollection
from nestling.serve.keys import anyone
from nestling.serve.model import serve_model

TEXT = "Lelidis Zikipot keeps a goat at home. The goat was born in Padua."
PLAN = Plan(
    makers=("moved", "gist"), rank=4, rounds=6, keys=1, near_count=2, own_count=2, own_length=8
)  # fmt: skip
ASKED = ("Where was the goat born?", "Who keeps a goat?", "What is the river called?")


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """A server of a student with a chat template; its memory `one` has studied a text."""
    base = new_student().base
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    served = serve_model(base._replace(tokenizer=tokenizer), name="student")
    with started(served, tmp_path_factory.mktemp("store"), PLAN) as found:
        found.post("/v1/memories", json={"id": "one"})
        assert learn(found, "one", TEXT)[-1]["state"] == "done"
        yield found


@pytest.fixture(scope="module")
def learner(http):
    """A learner with the same memory."""
    server = http.app.state.shared
    found = server.served.learner.fork()
    found.load(server.library.find(anyone().space, "one").file)
    return found


def whole(http, question, memory="one", tokens=16, **extra):
    """The response to the official client."""
    asked = [{"role": "user", "content": question}]
    return official(http).chat.completions.create(
        model="student", messages=asked, max_tokens=tokens, extra_body={"memory": memory, **extra}
    )


def chat(http, question, memory="one", **given):
    """The answer of the official client."""
    return whole(http, question, memory, **given).choices[0]


@pytest.mark.parametrize("question", ASKED)
@pytest.mark.parametrize("tokens", [3, 16])
def test_answer_matches_ask(http, learner, question, tokens):
    for check in (True, False):
        said = chat(http, question, tokens=tokens, check=check).message.content
        # a stream cannot retract whitespace before its last token
        assert said.rstrip() == learner.ask(question, tokens=tokens, check=check)


@pytest.mark.parametrize("tokens", [4, 96])
def test_recalled_sentence_is_returned(http, learner, monkeypatch, tokens):
    text = learner.text
    said = plain(text, "The goat was born in Padua.")
    known = (*said, text.tokenizer.eos_token_id)
    monkeypatch.setattr(recite, "remembered", lambda *given, **more: [known])
    monkeypatch.setattr(recall, "best", lambda found, least: found[0])
    http.app.state.shared.recollection._kept.clear()
    choice = chat(http, ASKED[0], tokens=tokens)
    assert choice.message.content.strip() == text.decode(said[:tokens]).strip()
    assert choice.finish_reason == ("length" if tokens < len(said) else "stop")
    assert learner.fork().ask(ASKED[0], tokens=tokens) == choice.message.content.strip()
    assert whole(http, ASKED[0]).source == "text"
    http.app.state.shared.recollection._kept.clear()


def test_stream_gives_the_same_answer(http):
    asked = [{"role": "user", "content": ASKED[0]}]
    body = {
        "model": "student",
        "messages": asked,
        "max_tokens": 16,
        "extra_body": {"memory": "one"},
    }
    stream = official(http).chat.completions.create(stream=True, **body)
    chunks = list(stream)
    text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    said = whole(http, ASKED[0])
    assert text == said.choices[0].message.content
    assert {chunk.source for chunk in chunks} == {said.source}


def test_response_names_no_source_if_nothing_fits(http, monkeypatch):
    monkeypatch.setattr(recall, "best", lambda found, least: None)
    assert whole(http, ASKED[0]).source is None
    assert "source" not in whole(http, ASKED[0], memory=None).model_extra


def test_no_recall_without_study_or_when_sampling(http, monkeypatch):
    monkeypatch.setattr(recall, "replies", lambda *given: pytest.fail("it was recalled"))
    http.post("/v1/memories", json={"id": "empty"})
    assert (
        chat(http, ASKED[0], "empty").message.content == chat(http, ASKED[0], None).message.content
    )
    assert chat(http, ASKED[0], temperature=0.5, seed=1).finish_reason
    assert chat(http, ASKED[0], check=False).finish_reason


def test_check_is_refused_when_sampling(http):
    asked = {"model": "student", "messages": [{"role": "user", "content": "hello"}], "check": True}
    for more in ({"temperature": 1.0}, {"n": 2}):
        answer = http.post("/v1/chat/completions", json={**asked, **more, "memory": "one"})
        assert answer.status_code == 400 and "most likely answer" in answer.text


def test_cancelled_question_stops_before_the_next(http, monkeypatch):
    """Both share the model, whose weights are swapped during use."""
    server, begun, go_on, seen = http.app.state.shared, threading.Event(), threading.Event(), []

    def slow(school, question):
        seen.append(f"begin {question}")
        begun.set()
        go_on.wait()
        seen.append(f"end {question}")

    monkeypatch.setattr(recollection, "recall", slow)
    memory = server.library.find(anyone().space, "one")

    async def asked():
        first = asyncio.ensure_future(server.recollection.of(memory, "first"))
        await asyncio.to_thread(begun.wait)
        first.cancel()
        second = asyncio.ensure_future(server.recollection.of(memory, "second"))
        await asyncio.wait([second], timeout=0.05)
        assert not second.done()
        go_on.set()
        await second
        assert first.cancelled()

    asyncio.run(asked())
    assert seen == ["begin first", "end first", "begin second", "end second"]


def test_recall_failure_does_not_affect_the_next_question(http, monkeypatch):
    def broken(*given):
        raise RuntimeError("broken")

    monkeypatch.setattr(recollection, "recall", broken)
    with pytest.raises(openai.InternalServerError):
        chat(http, ASKED[0])
    monkeypatch.undo()
    assert chat(http, ASKED[0]).message.content
