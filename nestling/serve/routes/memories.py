"""/v1/memories: create, list, fork, merge, compare and delete memories."""

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from nestling.serve.access import Caller, needs
from nestling.serve.errors import Refused
from nestling.serve.inspection import inspect
from nestling.serve.library import compared, shown, told
from nestling.serve.state import Shared, shared

router = APIRouter(prefix="/v1/memories")
PIECE = 1 << 20  # bytes


class Id(BaseModel):
    """The id of a new memory; by default the server chooses one."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[str, Field(max_length=100)] | None = None


class Others(Id):
    """Memories to merge with, and the id of the new one."""

    others: Annotated[
        list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=16)
    ]


@router.post("", status_code=201)
def create(request: Request, body: Id | None = None, caller: Caller = needs("learn")) -> Any:
    """Create an empty memory."""
    return shown(shared(request).library.create(caller.space, body.id if body else None))


@router.get("")
def every(request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """List the memories of the namespace."""
    found = shared(request).library.list(caller.space)
    return {"object": "list", "data": [told(one) for one in found]}


@router.get("/{memory}")
def show(memory: str, request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """Get a memory and what it has learned."""
    return shown(shared(request).library.find(caller.space, memory))


@router.delete("/{memory}")
def delete(memory: str, request: Request, caller: Caller = needs("files")) -> dict[str, Any]:
    """Delete a memory permanently."""
    library = shared(request).library
    library.delete(library.find(caller.space, memory))
    return {"id": memory, "object": "memory", "deleted": True}


@router.post("/{memory}/fork", status_code=201)
def fork(
    memory: str, request: Request, body: Id | None = None, caller: Caller = needs("learn")
) -> dict[str, Any]:
    """Create an independent copy of a memory."""
    library = shared(request).library
    one = library.find(caller.space, memory)
    return shown(library.fork(one, body.id if body else None))


@router.post("/{memory}/merge", status_code=201)
def merge(
    memory: str, body: Others, request: Request, caller: Caller = needs("learn")
) -> dict[str, Any]:
    """Create a memory that merges this one with others."""
    library = shared(request).library
    names = list(dict.fromkeys((memory, *body.others)))
    if len(names) < 2:
        raise Refused(400, "name another memory to merge this one with", param="others")
    return shown(library.merge([library.find(caller.space, one) for one in names], body.id))


@router.get("/{memory}/compare/{other}")
def compare(
    memory: str, other: str, request: Request, caller: Caller = needs("ask")
) -> dict[str, Any]:
    """Compare two memories: documents that only one has learned, and how levels differ."""
    library = shared(request).library
    return compared(library.find(caller.space, memory), library.find(caller.space, other))


@router.post("/{memory}/undo")
def undo(memory: str, request: Request, caller: Caller = needs("learn")) -> dict[str, Any]:
    """Forget the document learned last."""
    library = shared(request).library
    one = library.find(caller.space, memory)
    name = library.undo(one)
    return {"id": memory, "object": "memory", "forgotten": name}


@router.get("/{memory}/file")
def download(memory: str, request: Request, caller: Caller = needs("files")) -> Response:
    """Download a memory as a file for `nestling ask` and `nestling memory`."""
    one = shared(request).library.find(caller.space, memory)
    try:
        file = one.before.open("rb")  # a job is writing the other
    except FileNotFoundError:
        file = one.file.open("rb")

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(PIECE):
                yield piece

    headers = {
        "Content-Length": str(os.fstat(file.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{one.id}.memory"',
    }
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


@router.put("/{memory}/file", status_code=201)
async def upload(memory: str, request: Request, caller: Caller = needs("files")) -> dict[str, Any]:
    """Create a memory from an uploaded file, the request body."""
    server = shared(request)
    async with _draft(server, request.stream()) as draft:

        def take_in() -> dict[str, Any]:
            inspect(draft, server.served)
            return shown(server.library.take_in(caller.space, memory, draft))

        return await run_in_threadpool(take_in)


@contextlib.asynccontextmanager
async def _draft(server: Shared, pieces: AsyncIterator[bytes]) -> AsyncGenerator[Path]:
    """The body in a temporary file."""
    draft = server.library.folder / f"{secrets.token_hex(16)}.draft"
    try:
        with draft.open("wb") as file:
            async for piece in pieces:
                await run_in_threadpool(file.write, piece)
        yield draft
    except OSError as error:
        raise Refused(507, f"the file cannot be stored: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
