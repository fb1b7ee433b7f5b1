"""Access control: the caller of a request, and the scope that a path needs."""

from typing import Any

from fastapi import Depends, Request

from nestling.serve.errors import Refused
from nestling.serve.keys import Caller


def needs(scope: str) -> Any:
    """A path dependency: the caller, who must have a scope."""

    def caller(request: Request) -> Caller:
        found: Caller = request.state.caller  # of nestling.serve.gate
        if scope not in found.scopes:
            raise Refused(403, f"this key may not do that; it needs the scope {scope!r}")
        return found

    return Depends(caller)
