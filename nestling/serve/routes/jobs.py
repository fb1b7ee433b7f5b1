"""/v1/memories/ID/jobs: learn documents, and follow the progress."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from nestling.continual.consolidate import check_levels
from nestling.serve.access import Caller, needs
from nestling.serve.errors import Refused
from nestling.serve.feed import OVER
from nestling.serve.jobs import Job
from nestling.serve.library import Memory
from nestling.serve.state import Shared, shared

router = APIRouter(prefix="/v1/memories/{memory}/jobs")


class Document(BaseModel):
    """A text to learn."""

    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(max_length=200)] = "text"
    about: Annotated[str, Field(max_length=200)] = ""


@router.post("", status_code=202)
def learn(
    memory: str, body: Document, request: Request, caller: Caller = needs("learn")
) -> dict[str, Any]:
    """Queue a document to learn."""
    server = shared(request)
    one = server.library.find(caller.space, memory)
    most = server.settings.limits.document
    if len(body.text) > most:
        raise Refused(413, f"the text is longer than {most:,} characters; learn it in parts")
    if not body.text.strip() or "\0" in body.text:
        raise Refused(400, "this is not text; send UTF-8 text with at least one word")
    server.served.text.encode(body.text)  # invalid UTF-8 is refused now
    job = server.jobs.add(one, body.name, body.text, body.about)
    server.school.wake()
    return job.told(memory)


@router.post("/consolidate", status_code=202)
def consolidate(memory: str, request: Request, caller: Caller = needs("learn")) -> dict[str, Any]:
    """Queue the consolidation of the fast levels into the slowest one."""
    server = shared(request)
    one = server.library.find(caller.space, memory)
    check_levels(server.served.teacher)
    job = server.jobs.add(one, "consolidation", None)
    server.school.wake()
    return job.told(memory)


@router.get("")
def every(memory: str, request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """List the jobs of a memory."""
    server = shared(request)
    one = server.library.find(caller.space, memory)
    return {"object": "list", "data": [job.told(memory) for job in server.jobs.list(one)]}


@router.get("/{job}")
def show(memory: str, job: str, request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """Get a job."""
    return _found(shared(request), caller, memory, job)[1].told(memory)


@router.delete("/{job}")
def cancel(
    memory: str, job: str, request: Request, caller: Caller = needs("learn")
) -> dict[str, Any]:
    """Cancel a job; its memory is restored to its state before it."""
    server = shared(request)
    one, found = _found(server, caller, memory, job)
    if not found.over:
        server.school.cancel(found)
    return server.jobs.find(one, job).told(memory)


@router.get("/{job}/events")
async def events(
    memory: str, job: str, request: Request, caller: Caller = needs("ask")
) -> Response:
    """Follow a job through server-sent events until it ends."""
    server = shared(request)
    await run_in_threadpool(_found, server, caller, memory, job)

    async def told() -> AsyncIterator[dict[str, str]]:
        async with server.feed.listening(job) as queue:
            # after subscribing, so that no event is missed
            _, found = await run_in_threadpool(_found, server, caller, memory, job)
            yield _event({**found.told(memory), **server.feed.made(job)})
            if found.over:
                return
            while True:
                event = await queue.get()
                yield _event(event)
                if event["state"] in OVER:
                    return

    quiet = server.settings.limits.quiet
    return EventSourceResponse(told(), send_timeout=quiet, ping=15)


def _found(server: Shared, caller: Caller, memory: str, job: str) -> tuple[Memory, Job]:
    one = server.library.find(caller.space, memory)
    return one, server.jobs.find(one, job)


def _event(about: dict[str, Any]) -> dict[str, str]:
    return {"event": about["state"], "data": json.dumps(about)}
