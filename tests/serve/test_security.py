"""Security: other users' memories, foreign files, cross-origin requests."""

import json
import logging
import random

import pytest
import safetensors.torch
import torch
from serving import NAME, learn, official, say

from nestling.continual.file import KIND, MemoryFile, read_memory, write_memory
from nestling.core.error import UserError
from nestling.serve.keys import SCOPES, Keys, check_name, database_in

SECRET = "the aardvark signs at midnight"
HTML = "<img src=x onerror=alert(1)>"
STRANGE = [
    "..",
    "../server.sqlite",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a/b",
    "A",
    "",
    "-a",
    "a" * 65,
    HTML,
]


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    """Keys of a store: two in one namespace, and an ask-only key in another."""
    found = Keys(database_in(tmp_path))
    every = frozenset(SCOPES)
    return {
        "one": found.add("one", space="team", scopes=every),
        "two": found.add("two", space="team", scopes=frozenset(["ask"])),
        "other": found.add("other", space="other", scopes=every),
    }


def test_key_is_limited_to_its_namespace_and_scopes(start, tmp_path, keys):
    asked = {"model": NAME, "prompt": "a", "max_tokens": 1}
    with start(tmp_path) as http:
        wrong = [
            {}, {"Authorization": "Bearer"}, bearer("nk-x"), bearer(keys["one"][:-1]),
            bearer(keys["one"][:-1] + "\xe9"), {"Authorization": f"Basic {keys['one']}"},
            bearer(keys["one"].replace("nk", "sk")),
        ]  # fmt: skip
        for headers in wrong:
            for path in ("/v1/models", "/v1/memories", "/metrics", "/v1/nothing"):
                sent = {k: v.encode("latin-1") for k, v in headers.items()}
                refused = http.get(path, headers=sent)
                assert refused.status_code == 401 and "data" not in refused.json()
        assert http.get("/health").json()["keys"] is True
        one, two, other = (bearer(keys[name]) for name in ("one", "two", "other"))
        assert http.post("/v1/memories", json={"id": "m"}, headers=one).status_code == 201
        assert http.get("/v1/memories/m", headers=two).status_code == 200
        scoped = [
            ("POST", "/v1/memories"),
            ("DELETE", "/v1/memories/m"),
            ("POST", "/v1/memories/m/undo"),
        ]
        for method, path in [*scoped, ("GET", "/v1/memories/m/file")]:
            assert http.request(method, path, headers=two).status_code == 403
        job = http.post("/v1/memories/m/jobs", json={"text": "a b c."}, headers=one).json()["id"]
        for path in ("", "/file", "/jobs", f"/jobs/{job}", f"/jobs/{job}/events"):
            assert http.get(f"/v1/memories/m{path}", headers=other).status_code == 404
        for method, path in scoped[1:]:
            assert http.request(method, path, headers=other).status_code == 404
        stolen = http.post("/v1/completions", json={**asked, "memory": "m"}, headers=other)
        assert stolen.status_code == 404
        assert http.get("/v1/memories", headers=other).json()["data"] == []
        # the same id in another namespace is another memory
        assert http.post("/v1/memories", json={"id": "m"}, headers=other).status_code == 201
        assert http.get(f"/v1/memories/m/jobs/{job}", headers=other).status_code == 404
        assert official(http, keys["two"]).models.list().data[0].id == NAME
        Keys(database_in(tmp_path)).remove("two")
        assert http.get("/v1/models", headers=two).status_code == 401
        stored = (tmp_path / "server.sqlite").read_bytes()
        assert all(key.rpartition("-")[2].encode() not in stored for key in keys.values())


def test_rate_limits_are_per_key(start, tmp_path, keys):
    with start(tmp_path, rate=3) as http:
        codes = [http.get("/v1/models", headers=bearer(keys["one"])).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        late = http.get("/v1/models", headers=bearer(keys["one"]))
        assert int(late.headers["retry-after"]) > 0 and late.json()["error"]["code"] == "rate_limit"
        assert http.get("/v1/models", headers=bearer(keys["other"])).status_code == 200
        codes = [http.get("/v1/models", headers=bearer("nk-x-y")).status_code for _ in range(4)]
        assert codes == [401, 401, 401, 429]


@pytest.mark.parametrize("name", STRANGE)
def test_ids_cannot_be_paths(http, name, tmp_path):
    before = http.get("/v1/memories").json()
    assert http.post("/v1/memories", json={"id": name or "-"}).status_code in (400, 422)
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/file"), ("POST", "/undo")]:
        found = http.request(method, f"/v1/memories/{name}{path}")
        # an empty id is the list itself, which cannot be deleted
        assert found.status_code in (404, 405) or (name == "" and path == "")
    with pytest.raises(UserError, match="1 to 64"):
        check_name(name, "id")
    assert http.get("/v1/memories").json() == before


def test_cross_origin_requests_are_refused(http):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Host": "evil.example"},
        {"Origin": "null"},
    ):
        assert http.get("/v1/models", headers=headers).status_code == 403
        assert http.post("/v1/memories", headers=headers).status_code == 403
    own = {"Origin": f"http://{http.base_url.netloc.decode()}"}
    found = http.get("/v1/models", headers=own)
    assert found.status_code == 200
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert found.headers["x-content-type-options"] == "nosniff"


@pytest.fixture(scope="module")
def memory(http):
    """The bytes of a memory that has studied a text."""
    http.post("/v1/memories", json={"id": "whole"})
    learn(http, "whole", "The pump was made in Padua. It is green.", HTML)
    return http.get("/v1/memories/whole/file").content


def safe(header, data=b""):
    """A safetensors file with arbitrary declarations."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def forged(memory, folder, change):
    """A memory with changed content and a valid checksum."""
    (folder / "m").write_bytes(memory)
    about, tensors = read_memory(folder / "m")
    change(about, tensors)
    return write_memory(folder / "m", MemoryFile(about, tensors)).read_bytes()


def wide(about, tensors):
    """Factors of a product of 4 terabytes."""
    name = next(iter(about["studied"][0]["maps"]))
    tensors[f"study.0.left.{name}"] = torch.ones(1_000_000, 1, dtype=torch.int8)
    tensors[f"study.0.right.{name}"] = torch.ones(1, 1_000_000, dtype=torch.int8)


def shaped(about, tensors):
    """A product whose shape does not match its factors."""
    name = next(iter(about["studied"][0]["maps"]))
    tensors[f"level.0.moved.{name}:shape"] = torch.tensor([1 << 40])


def ranks(about, tensors):
    name = next(iter(about["studied"][0]["maps"]))
    tensors[f"study.0.right.{name}"] = tensors[f"study.0.right.{name}"][:1]


FORGED = {
    "wide": wide,
    "shaped": shaped,
    "ranks": ranks,
    "waiting": lambda about, _: about.update(waiting=[["a", "b", "c"]]),
    "base": lambda about, _: about.update(base="0" * 64),
    "map": lambda about, _: about["studied"][0]["maps"].append("lm_head.weight"),
    "list": lambda about, _: about.update(documents=[[HTML, 3, "x", None]]),
    "question": lambda about, _: about["studied"][0].update(questions=[[1, 2, 3, 4, 5]]),
    "nothing": lambda about, _: about.clear() or about.update(base=1),
    "foreign": lambda _, tensors: tensors.update({"../../x": torch.ones(1)}),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_memory_is_refused(http, memory, tmp_path, name):
    found = http.put("/v1/memories/forged/file", content=forged(memory, tmp_path, FORGED[name]))
    assert found.status_code == 400 and found.json()["error"]["message"].count("\n") == 0
    assert http.get("/v1/memories/forged").status_code == 404


HUGE = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
SMALL = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
ABOUT = {"__metadata__": {KIND: "{}"}}
BOMBS = {
    "nothing": b"",
    "text": b"hello, this is no file at all",
    "page": f"<html>{HTML}</html>".encode(),
    "header": (1 << 62).to_bytes(8, "little") + b"{}",
    "declared": safe({**ABOUT, "context.x": HUGE}),
    "offsets": safe({**ABOUT, "context.x": {**HUGE, "shape": [1], "data_offsets": [-4, 0]}}),
    "overlap": safe(
        {
            **ABOUT,
            **{f"context.{n}": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"},
        },
        bytes(8),
    ),
    "deep": safe({**ABOUT, "x": json.loads("[" * 500 + "]" * 500)}),
    "other": safetensors.torch.save({"a": torch.ones(3)}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_oversized_declaration_is_refused_before_reading(http, name):
    found = http.put("/v1/memories/bomb/file", content=BOMBS[name])
    assert found.status_code == 400, found.text
    folder = http.app.state.shared.library.folder
    assert not list(folder.glob("*.draft"))


def test_truncated_or_changed_file_is_refused(http, memory):
    for content in (memory[:-3], memory[:-1] + bytes([memory[-1] ^ 1]), memory + b"\0"):
        assert http.put("/v1/memories/cut/file", content=content).status_code == 400


def test_names_and_texts_come_back_as_data(http, memory):
    shown = http.get("/v1/memories/whole")
    assert shown.headers["content-type"] == "application/json"
    assert shown.json()["documents"][0]["name"] == HTML


def test_logs_and_metrics_hold_no_user_data(http, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("nestling.serve"), "propagate", True)
    caplog.set_level(logging.INFO)
    http.post("/v1/memories", json={"id": "aardvark-notes"})
    learn(http, "aardvark-notes", f"{SECRET}. It is so.", SECRET)
    say(http, "aardvark-notes", SECRET)
    http.get(f"/{SECRET}", params={"q": SECRET})
    http.post("/v1/completions", json={"model": SECRET, "prompt": 3})
    monkeypatch.setattr(http.app.state.shared, "known", lambda *_: [][len(SECRET)])
    broken = http.post("/v1/completions", json={"model": NAME, "prompt": SECRET})
    assert broken.status_code == 500 and "log" in broken.json()["error"]["message"]
    records = [r.getMessage() for r in caplog.records if r.name == "nestling.serve"]
    assert any("request failed" in line for line in records) and len(records) > 6
    written = "".join(records) + http.get("/metrics").text
    assert "aardvark" not in written and "midnight" not in written
    assert 'path="/v1/completions",status="500"' in written
    assert all("event" in json.loads(line) for line in records)


def junk(draw, depth=0):
    """Random JSON with valid field names."""
    kind = draw.randrange(8 if depth < 3 else 6)
    if kind == 0:
        return draw.choice([None, True, False, 0, -1, 1e308, 2**70, float("inf"), 0.5])
    if kind < 4:
        return draw.choice(["", NAME, "user", "text", "\ud800", "\0", HTML, "a" * 3])
    if kind < 6:
        return draw.randrange(-5, 300)
    names = ["model", "prompt", "messages", "role", "content", "type", "text", "n", "stop", "seed",
             "memory", "stream", "id", "name", "max_tokens", "echo", "top_p"]  # fmt: skip
    if kind == 6:
        return [junk(draw, depth + 1) for _ in range(draw.randrange(3))]
    return {draw.choice(names): junk(draw, depth + 1) for _ in range(draw.randrange(5))}


def test_no_request_causes_a_500(http):
    """Bodies near and far from valid ones never give a status of 500."""
    draw = random.Random(0)
    near = {
        "/v1/chat/completions": {
            "model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1,
        },
        "/v1/completions": {"model": NAME, "prompt": "a", "max_tokens": 1},
        "/v1/memories": {},
        "/v1/memories/whole/jobs": {"text": ""},
        "/v1/memories/whole/fork": {"id": "-"},
    }  # fmt: skip
    seen = set()
    for round_ in range(24):
        for path, base in near.items():
            body = junk(draw) if round_ % 4 == 0 else dict(base)
            if isinstance(body, dict) and base:
                body[draw.choice([*base, "n", "stop", "memory", "seed", "echo"])] = junk(draw)
            content = json.dumps(body).encode()
            found = http.post(path, content=content, headers={"Content-Type": "application/json"})
            assert found.status_code < 500, (path, body, found.text)
            seen.add(found.status_code)
    for _ in range(24):
        name = "".join(f"%{draw.randrange(256):02x}" for _ in range(4))
        method = draw.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
        assert http.request(method, f"/v1/memories/{name}/jobs/{name}").status_code < 500
    assert {200, 422} <= seen
