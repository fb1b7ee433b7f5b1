"""Routes about the server: health and metrics."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from nestling.serve.state import shared

router = APIRouter()


@router.get("/health")
def health(request: Request) -> dict[str, Any]:
    """Whether the server answers and learns, and whether it needs keys."""
    server = shared(request)
    return {
        "status": "ok",
        "model": server.served.name,
        "keys": server.keys.any(),
        "answers": server.engine.count,
    }


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    return Response(shared(request).metrics.text(), media_type="text/plain; version=0.0.4")
