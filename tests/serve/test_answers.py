"""The OpenAI API, with its official client."""

import openai
import pytest
from serving import NAME, official

HELLO = [{"role": "user", "content": "hello"}]


def pieces(stream):
    """The text of a stream, why it ended, and its usage."""
    text, end, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta = getattr(choice, "delta", None)
            text += (delta.content if delta else choice.text) or ""
            end = choice.finish_reason or end
    return text, end, usage


def test_official_client_matches_the_learner(client, served):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "nestling"
    said = served.learner.ask("hello", tokens=12)
    chat = {"model": NAME, "messages": HELLO, "max_tokens": 12}
    whole = client.chat.completions.create(**chat)
    assert whole.choices[0].message.content.strip() == said
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = pieces(client.chat.completions.create(**chat, **options))
    assert streamed == (whole.choices[0].message.content, "length", whole.usage)
    gone_on = client.completions.create(model=NAME, prompt="hello", max_tokens=12)
    assert gone_on.choices[0].text == served.learner.generate("hello", tokens=12)
    streamed = client.completions.create(model=NAME, prompt="hello", max_tokens=12, stream=True)
    assert pieces(streamed)[:2] == (gone_on.choices[0].text, "length")


def test_batched_prompts_and_samples_equal_single_ones(client, served):
    ids = served.text.prompt("four")
    common = {"model": NAME, "max_tokens": 8, "temperature": 1.0, "top_p": 0.9}
    both = client.completions.create(prompt=["hello", "four"], n=2, seed=5, **common)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in both.choices}) == 4
    for number, prompt in enumerate(["hello", "hello", "four", ids]):
        alone = client.completions.create(prompt=prompt, seed=5 + number, **common)
        assert alone.choices[0].text == both.choices[number].text
    echo = client.completions.create(model=NAME, prompt="four", max_tokens=1, echo=True)
    assert echo.choices[0].text.startswith("four")


def test_answer_ends_before_a_stop_string(client):
    asked = {"model": NAME, "prompt": "hello", "max_tokens": 30}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[9:11]
    ended = client.completions.create(**asked, stop=stop).choices[0]
    assert ended.text == whole[: whole.index(stop)] and ended.finish_reason == "stop"
    streamed = client.completions.create(**asked, stop=[stop, "\0\0\0"], stream=True)
    assert pieces(streamed)[:2] == (ended.text, "stop")


@pytest.mark.parametrize(
    ("more", "error", "word"),
    [
        ({"model": "other"}, openai.NotFoundError, "this server has 'tiny'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"messages": []}, openai.UnprocessableEntityError, "messages"),
        ({"messages": [{"role": "user", "content": "a" * 100}]}, 400, "the context holds 64"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "empty"),
        ({"temperature": 3}, openai.UnprocessableEntityError, "temperature"),
        ({"n": 100}, 400, "at once"),
        ({"stop": [""]}, openai.UnprocessableEntityError, "stop"),
        ({"extra_body": {"memory": "gone"}}, openai.NotFoundError, "no such memory"),
        ({"extra_headers": {"X-Memory": "../x"}}, openai.NotFoundError, "no such memory"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_refusals_are_client_errors(client, more, error, word, stream):
    error = openai.BadRequestError if error == 400 else error
    with pytest.raises(error, match=word) as found:
        client.chat.completions.create(
            **{"model": NAME, "messages": HELLO, "stream": stream, **more}
        )
    assert found.value.body["type"].endswith("_error") and "\n" not in found.value.body["message"]


@pytest.mark.parametrize(
    ("status", "word", "content", "headers"),
    [
        (422, "JSON object", b"{", {"Content-Type": "application/json"}),
        (422, "JSON object", b"hello", {}),
        (422, "model", b'{"messages": [{"role": "user", "content": "a"}]}', {}),
    ],
    ids=["broken", "text", "lacking"],
)
def test_malformed_body_is_one_line(http, status, word, content, headers):
    headers = {"Content-Type": "application/json", **headers}
    found = http.post("/v1/chat/completions", content=content, headers=headers)
    assert found.status_code == status and word in found.json()["error"]["message"]
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_overload_timeout_and_large_body_are_errors(start, tmp_path):
    with start(tmp_path, waiting=1, body=500, seconds=1e-9) as http:
        asked = {"model": NAME, "prompt": ["a", "b"], "max_tokens": 2}
        assert http.post("/v1/completions", json=asked).status_code == 503
        asked["prompt"] = "a"
        assert http.post("/v1/completions", json=asked).status_code == 504
        with pytest.raises(openai.APIError, match="took more than"):
            list(official(http).completions.create(**asked, stream=True))
        for large in (b" " * 600, (b" " * 100 for _ in range(6))):
            refused = http.post("/v1/completions", content=large)
            assert refused.status_code == 413 and "500 bytes" in refused.json()["error"]["message"]
        assert http.get("/health").json()["status"] == "ok"


def test_client_disconnect_ends_its_answer(http):
    asked = {"model": NAME, "prompt": "a", "max_tokens": 40, "stream": True}
    with http.stream("POST", "/v1/completions", json=asked) as stream:
        next(stream.iter_lines())
    while http.get("/health").json()["answers"]:
        pass
