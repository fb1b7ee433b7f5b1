"""/v1/chat/completions and /v1/completions, as in the OpenAI API."""

import asyncio
import contextlib
import functools
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from nestling.core.error import UserError
from nestling.serve.access import Caller, needs
from nestling.serve.answering import Answers, Prompt, Said, check, usage
from nestling.serve.bodies import Asked, ChatBody, CompletionBody
from nestling.serve.errors import Refused, error_body
from nestling.serve.state import Shared, shared

router = APIRouter()
Chunk = Callable[[Said], list[dict[str, Any]]]


@router.get("/v1/models")
def models(request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """List the model that is served."""
    return {"object": "list", "data": [_model(shared(request))]}


@router.get("/v1/models/{name:path}")
def model(name: str, request: Request, caller: Caller = needs("ask")) -> dict[str, Any]:
    """Get the model by name."""
    server = shared(request)
    if name != server.served.name:
        raise Refused(404, "there is no such model", "model_not_found", param="model")
    return _model(server)


def _model(server: Shared) -> dict[str, Any]:
    return {
        "id": server.served.name,
        "object": "model",
        "created": server.started,
        "owned_by": "nestling",
    }


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, request: Request, caller: Caller = needs("ask")) -> Response:
    """Generate the next message of a conversation."""
    server = shared(request)
    turns = [
        ("system" if message.role == "developer" else message.role, message.text)
        for message in body.messages
    ]
    if not any(text.strip() for _, text in turns):
        raise Refused(400, "the messages are empty; write something", param="messages")
    ids, stops = await run_in_threadpool(server.served.chat, turns)
    most = body.max_completion_tokens or body.max_tokens
    own = [text for role, text in turns if role == "user" and text.strip()]
    prompt = Prompt(ids, stops, trim=True, about="\n".join(own))
    answers = await _answers(request, caller, body, [prompt], most, _question(server, body))
    about = _about(server, body, "chatcmpl", "chat.completion")
    if body.stream:
        about["object"] = "chat.completion.chunk"
        first = [_delta(n, {"role": "assistant", "content": ""}) for n in range(body.n)]

        def chunk(said: Said) -> list[dict[str, Any]]:
            text = said.piece.text
            found = [_delta(said.number, {"content": text})] if text else []
            if said.piece.finish:
                found.append(_delta(said.number, {}, said.piece.finish))
            return found

        return _streamed(answers, body, about, chunk, first)
    found = await _unless_gone(request, answers.whole())
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": end,
        }
        for number, (text, end, _) in enumerate(found)
    ]
    return _whole(answers, about, choices, sum(count for *_, count in found))


@router.post("/v1/completions")
async def complete(
    body: CompletionBody, request: Request, caller: Caller = needs("ask")
) -> Response:
    """Generate a continuation of a text."""
    server = shared(request)
    prompts = await run_in_threadpool(_prompts, server, body)
    answers = await _answers(request, caller, body, prompts, body.max_tokens)
    about = _about(server, body, "cmpl", "text_completion")
    if body.stream:
        before = [_choice(n, one.before) for n, one in enumerate(answers.prompts) if one.before]

        def chunk(said: Said) -> list[dict[str, Any]]:
            if not said.piece.text and not said.piece.finish:
                return []
            return [_choice(said.number, said.piece.text, said.piece.finish)]

        return _streamed(answers, body, about, chunk, before)
    found = await _unless_gone(request, answers.whole())
    choices = [_choice(number, text, end) for number, (text, end, _) in enumerate(found)]
    return _whole(answers, about, choices, sum(count for *_, count in found))


def _prompts(server: Shared, body: CompletionBody) -> list[Prompt]:
    """The prompts of a body: a text, several, token ids, or several of those."""
    text, given = server.served.text, body.prompt
    several: list[Any]
    one_text = isinstance(given, str) or bool(given and isinstance(given[0], int))
    several = [given] if one_text else list(given)
    size = server.served.vocabulary
    found = []
    for one in several:
        if isinstance(one, str):
            ids = text.prompt(one)
            found.append(Prompt(ids, before=one if body.echo else "", about=one))
            continue
        ids = list(one) if isinstance(one, list) else []
        if not ids or not all(0 <= i < size for i in ids):
            raise UserError(f"token ids of a prompt must be at least one, each below {size}")
        told = text.decode(ids)
        found.append(Prompt(ids, before=told if body.echo else "", about=told))
    if not found:
        raise UserError("the prompt is empty; give at least one character to continue")
    return found


def _question(server: Shared, body: ChatBody) -> str | None:
    """The question to answer by checked recall; None: no recall."""
    talks = server.served.learner.talks
    if body.check and not talks:
        raise Refused(400, "check is not possible: this model has no chat template", param="check")
    if body.check and body.question is None:
        raise Refused(
            400,
            "only the most likely answer to a user's message can be checked: leave out n and "
            "temperature, or check",
            param="check",
        )
    return body.question if talks and body.check is not False else None


async def _answers(
    request: Request,
    caller: Caller,
    body: Asked,
    prompts: list[Prompt],
    most: int | None,
    question: str | None = None,
) -> Answers:
    """Start the answers; the one to ``question`` is recalled from studied documents."""
    server = shared(request)
    name = body.memory or request.headers.get("x-memory")
    find = functools.partial(server.library.find, caller.space)
    memory = await run_in_threadpool(find, name) if name else None
    check(server, body, len(prompts))
    known = await run_in_threadpool(lambda: [server.known(memory, p.about) for p in prompts])
    recall = None
    if memory and question and known[0].before is not None:
        recall = functools.partial(server.recollection.of, memory, question)
    answers = Answers(server, body, prompts, known, most, recall)
    answers.begin()
    return answers


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of ``work``, which is cancelled when the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=0.5))[0]:
            if await request.is_disconnected():
                raise Refused(499, "the client disconnected")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _about(server: Shared, body: Asked, head: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{head}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": server.served.name,
    }


def _delta(number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}


def _choice(number: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": finish}


def _whole(
    answers: Answers, about: dict[str, Any], choices: list[dict[str, Any]], written: int
) -> Response:
    counts = usage(answers.read, written)
    return JSONResponse({**about, **answers.about, "choices": choices, "usage": counts})


def _streamed(
    answers: Answers,
    body: Asked,
    about: dict[str, Any],
    chunk: Chunk,
    first: list[dict[str, Any]],
) -> Response:
    """The pieces as server-sent events."""
    counted = body.stream_options is not None and body.stream_options.include_usage

    def event(choices: list[dict[str, Any]], **more: Any) -> dict[str, str]:
        return {"data": json.dumps({**about, **answers.about, "choices": choices, **more})}

    async def events() -> AsyncIterator[dict[str, str]]:
        written = 0
        try:
            async with contextlib.aclosing(answers.pieces()) as pieces:
                for choice in first:
                    yield event([choice])
                async for said in pieces:
                    written += said.piece.tokens
                    for choice in chunk(said):
                        yield event([choice])
        except Refused as error:
            yield {"data": json.dumps(error_body(error.status, error.message, error.code))}
            return
        if counted:
            yield event([], usage=usage(answers.read, written))
        yield {"data": "[DONE]"}

    quiet = answers.server.settings.limits.quiet
    return EventSourceResponse(events(), send_timeout=quiet, ping=15)
