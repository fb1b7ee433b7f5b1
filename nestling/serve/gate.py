"""Checks of every request: key, origin, rate and size; it is counted and logged."""

import asyncio
import secrets
import time
from collections import OrderedDict
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nestling.serve.errors import Refused
from nestling.serve.keys import Caller, Keys, anyone
from nestling.serve.logs import failed, note
from nestling.serve.metrics import Metrics
from nestling.serve.settings import Settings

NAMES = ("localhost", "127.0.0.1", "[::1]")


class Rates:
    """Rate limits: a token bucket for each key."""

    def __init__(self, minute: int, most: int = 10_000):
        self.minute, self.most = minute, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a request from the bucket; returns the seconds to wait, or 0."""
        now = time.monotonic()
        left, at = self._left.pop(key, (float(self.minute), now))
        left = min(float(self.minute), left + (now - at) * self.minute / 60)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > self.most:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * 60 / self.minute


class Gate:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics):
        self.app, self.settings, self.keys, self.metrics = app, settings, keys, metrics
        self.rates = Rates(settings.limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, number = time.monotonic(), 0, secrets.token_hex(8)

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_safe(number)]
            await send(message)

        try:
            caller = self._admit(scope)
            scope.setdefault("state", {})["caller"] = caller
            await self.app(scope, self._limited(scope, receive), seen)
        except Refused as error:
            await error.response()(scope, receive, seen)
        except Exception as error:
            failed("request", error)
            if status == 0:
                await Refused(500, "the server failed; its log says where").response()(
                    scope, receive, seen
                )
            status = 500
        finally:
            self._count(scope, status, time.monotonic() - began, number)

    def _count(self, scope: Scope, status: int, seconds: float, number: str) -> None:
        # the route, not the requested path, which may contain user text
        path = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        caller: Any = scope.get("state", {}).get("caller")
        note(
            "request",
            id=number,
            method=scope["method"] if len(scope["method"]) < 8 else "other",
            path=path,
            status=status,
            ms=round(1000 * seconds, 1),
            key=caller.key if caller else "",
        )

    def _admit(self, scope: Scope) -> Caller | None:
        """The caller; one without access raises Refused."""
        headers, path = Headers(scope=scope), scope["path"]
        self._from_here(scope, headers)
        if not (path.startswith("/v1/") or path == "/metrics"):
            return None
        if self.keys.any():
            kind, _, given = headers.get("authorization", "").partition(" ")
            caller = self.keys.caller(given.strip()) if kind.lower() == "bearer" else None
            if caller is None:
                who = f"wrong {(scope.get('client') or ('',))[0]}"
                if self.rates.take(who):
                    raise Refused(429, "too many wrong keys; wait", "rate_limit", wait=60)
                raise Refused(
                    401,
                    "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                    "invalid_api_key",
                )
        else:
            caller = anyone()
        if wait := self.rates.take(caller.key):
            limit = self.settings.limits.rate
            raise Refused(
                429, f"more than {limit} requests a minute; wait", "rate_limit", wait=int(wait) + 1
            )
        return caller

    def _from_here(self, scope: Scope, headers: Headers) -> None:
        """Refuse cross-site requests from a user's browser to a server without keys."""
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.settings.local and name not in (*NAMES, self.settings.host, "testserver"):
            raise Refused(403, "this address answers only under its own name: use 127.0.0.1")
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            raise Refused(403, "cross-origin requests are refused")

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Refuse a body that is too large or too slow."""
        limits = self.settings.limits
        upload = scope["method"] == "PUT" and scope["path"].startswith("/v1/memories/")
        most, got, done = limits.upload if upload else limits.body, 0, False
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > most:
            raise Refused(413, f"the body is larger than {most:,} bytes")

        async def limited() -> Message:
            nonlocal got, done
            if done:  # the next message is the disconnect
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), limits.quiet)
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            got += len(message.get("body", b""))
            if got > most:
                raise HTTPException(413, f"the body is larger than {most:,} bytes")
            done = not message.get("more_body", False)
            return message

        return limited


def _safe(number: str) -> list[tuple[bytes, bytes]]:
    """The headers of every response."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    policy += "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    named = {
        "x-request-id": number,
        "x-content-type-options": "nosniff",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    return [(name.encode(), value.encode()) for name, value in named.items()]
