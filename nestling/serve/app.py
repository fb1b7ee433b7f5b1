"""The application: its parts, routes, startup and shutdown."""

import contextlib
import time
from collections.abc import AsyncGenerator

from fastapi import FastAPI

from nestling import __version__
from nestling.continual.study.plan import Plan
from nestling.serve.errors import handle_errors
from nestling.serve.gate import Gate
from nestling.serve.model import Served
from nestling.serve.routes import about, answers, jobs, memories, page
from nestling.serve.settings import Settings
from nestling.serve.state import new_server


def new_app(served: Served, settings: Settings, plan: Plan | None = None) -> FastAPI:
    """The ASGI application; its threads run between startup and shutdown.

    ``plan`` says how documents are studied, instead of the settings.
    """
    server = new_server(served, settings, int(time.time()), plan)

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncGenerator[None]:
        server.engine.start()
        server.school.start()
        yield
        server.engine.stop()
        server.recollection.stop()
        server.school.stop()  # unfinished jobs are saved and resume at the next start
        server.database.close()

    app = FastAPI(
        title="nestling",
        version=__version__,
        lifespan=running,
        docs_url=None,  # FastAPI's own page loads scripts from another site
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.shared = server
    handle_errors(app)
    for part in (about, page, answers, memories, jobs):
        app.include_router(part.router)
    app.add_middleware(Gate, settings=settings, keys=server.keys, metrics=server.metrics)
    return app
