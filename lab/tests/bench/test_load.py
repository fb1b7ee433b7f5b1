"""Server load test: what it counts, and a server killed under load."""

import os
import signal
import time
from pathlib import Path

import pytest
from serving import NAME, started, tiny_stacked

from nestling.core.error import UserError
from nestling.serve.model import serve_model
from nestling_lab.bench.load import Load, load, summary
from nestling_lab.bench.served import Server


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A load test of a server in a thread of this process."""
    with started(serve_model(tiny_stacked(), name=NAME), tmp_path_factory.mktemp("s")) as http:
        server = Server(Path(NAME), tmp_path_factory.mktemp("none"))
        server.port = http.base_url.port
        server.up.set()
        yield Load(server, until=time.monotonic() + 600)


def test_answers_and_documents_are_counted(found):
    found.server.call("POST", "/v1/memories", {"id": "m"})
    for memory in ("m", None):
        found.ask(1, memory, 5)
    found.learn()
    figures = summary(found, 1.0)
    assert figures["answers"] == 2 and figures["documents"] == {"done": 1}
    assert 2 <= figures["tokens_per_second"] <= 10 and not figures["errors"]
    assert 0 < figures["seconds_to_first_text"]["median"] <= figures["seconds_of_an_answer"]["most"]


def test_failures_are_errors_unless_caused_by_a_kill(found):
    def gone():
        found.until = 0  # the last one
        found.ask(1, "nobody", 5)

    def killed():
        found.server.life += 1
        gone()

    for work in (gone, killed):
        found.until = time.monotonic() + 600
        found.keep_at(work)
    [(message, count)] = found.errors.items()
    assert count == 1 and "404" in message and "no such memory" in message
    assert found.broken == 1


def test_stopped_load_ends_its_server(tmp_path, monkeypatch):
    """SIGTERM, as sent by a scheduler, once the clients are running."""
    processes = []
    monkeypatch.setattr(
        Load,
        "watch",
        lambda one: processes.append(one.server._process) or os.kill(os.getpid(), signal.SIGTERM),
    )
    with pytest.raises(UserError, match="stopped early"):
        load(tmp_path, clients=1, seconds=3600.0, tokens=4, memories=0, learning=False, quiet=True)
    assert processes[0].poll() is not None


@pytest.mark.slow
def test_server_killed_under_load_keeps_its_memories(tmp_path):
    """Memories answer as before, and an unfinished document resumes."""
    found = load(tmp_path, clients=8, seconds=40, tokens=16, kills=2, quiet=True)
    assert not found["errors"], found["errors_by_message"]
    assert found["answers"] and found["cut_off_by_a_kill"]
    assert found["memories_kept"] == "4 of 4"
    assert set(found["documents"]) == {"done"}
    assert found["documents_open_when_killed"] == found["restarts_that_said_so"]
