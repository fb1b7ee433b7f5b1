"""A server of a tiny model on a loopback port, and its clients."""

import contextlib
import json
import threading

import httpx2
import uvicorn
from openai import OpenAI

from nestling.continual.study.plan import Plan
from nestling.data import byte_tokenizer
from nestling.models.pretrained import new_llama, stack_model, studied_level
from nestling.serve.app import new_app
from nestling.serve.settings import Limits, Settings

NAME = "tiny"
# a study of a second: three writes, few questions
QUICK = Plan(
    budget=3, rate=0.3, makers=("moved",), judge=False, own_count=1, own_length=4, near_count=1
)


def tiny_stacked(levels=None):
    """A random two-layer byte-level llama, for study or with ``levels``."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "layers": 2, "heads": 2, "length": 64}
    model = new_llama(vocab_size=258, seed=0, **sizes).requires_grad_(False).eval()
    if levels is not None:
        return stack_model(model, byte_tokenizer(), levels)
    return stack_model(model, byte_tokenizer(), [studied_level(2, (1,))], "low-rank")


@contextlib.contextmanager
def running(app):
    """The address of an app running in a separate thread."""
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def started(served, store, plan=QUICK, **limits):
    """A plain client of a server with this store; options are those of Limits."""
    app = new_app(served, Settings(store=store, limits=Limits(**limits)), plan)
    with running(app) as address, httpx2.Client(base_url=address, timeout=600) as client:
        client.app = app
        yield client


def official(http, key="none"):
    """The official client for the server of a plain client."""
    return OpenAI(base_url=f"{http.base_url}/v1", api_key=key, max_retries=0)


def put(http, memory, text, name="text", **more):
    """Queue a document; returns the job's id."""
    job = http.post(f"/v1/memories/{memory}/jobs", json={"text": text, "name": name, **more})
    assert job.status_code == 202, job.text
    return job.json()["id"]


def told(http, memory, job):
    """The events of a job until it ends."""
    with http.stream("GET", f"/v1/memories/{memory}/jobs/{job}/events") as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def learn(http, memory, text, name="text", **more):
    """Learn a document; returns the events."""
    return list(told(http, memory, put(http, memory, text, name, **more)))


def say(http, memory=None, prompt="hello", **options):
    """The model's continuation."""
    asked = {"model": NAME, "prompt": prompt, "max_tokens": 12, "memory": memory, **options}
    found = http.post("/v1/completions", json=asked)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["text"]
