"""The program behind `nestling serve`: a port, a model, and a server that runs until Ctrl-C."""

import errno
import logging
import socket

from nestling.core.allocator import share_freed_memory
from nestling.core.error import UserError
from nestling.data.lock import locked
from nestling.serve.keys import Keys, database_in
from nestling.serve.settings import Settings

PATIENCE = 10  # seconds for running answers to finish when the server stops


def serve(model: str, settings: Settings, *, name: str = "", device: str = "cpu") -> None:
    """Serve a model until the process is told to end."""
    import_or_say()
    share_freed_memory()
    import uvicorn

    from nestling.serve.app import new_app
    from nestling.serve.model import serve_model

    # before the model is loaded: that takes a while
    keys = _keys(settings)
    with locked(settings.store / "server", "nestling serve"), _listening(settings) as port:
        served = serve_model(model, name=name, device=device)
        _check_study(settings, served.learner.studies)
        app = new_app(served, settings)
        log = logging.getLogger("nestling.serve")
        log.setLevel(logging.INFO)
        log.addHandler(logging.StreamHandler())
        log.propagate = False
        at = f"{settings.host}:{port.getsockname()[1]}"
        where = "this machine only" if settings.local else "reachable from outside"
        print(f"{served.name} on http://{at} ({where}; {keys}); memories in {settings.store}/")
        print(f"the page is http://{at}/, the API http://{at}/v1; Ctrl-C ends", flush=True)
        if left := app.state.shared.jobs.left():
            print(f"{left} unfinished documents resume", flush=True)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=PATIENCE,
            h11_max_incomplete_event_size=65_536,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[port])


def _check_study(settings: Settings, studies: bool) -> None:
    """Raise UserError if an option of study is set for a model that does not study."""
    for name in ("study", "budget"):
        if not studies and getattr(settings, name) is not None:
            raise UserError(
                f"--{name} has no effect here: this model learns by reading, which writes its "
                "levels; leave it out, or adapt the model for study (nestling adapt)"
            )


def import_or_say() -> None:
    """Raise UserError unless the packages that a server needs are installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import sse_starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"a server needs {error.name}: install it with pip install 'nestling[serve]'"
        ) from error


def _keys(settings: Settings) -> str:
    """A note on keys for the start message; a public address without one raises UserError."""
    database = database_in(settings.store)
    there = Keys(database).any()
    database.close()
    if not there and not settings.local:
        raise UserError(
            f"{settings.host} can be reached from outside and has no key: create one with "
            f"nestling keys add NAME --store {settings.store}"
        )
    return "with keys" if there else "without keys"


def _listening(settings: Settings) -> socket.socket:
    """Open the port."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    port = socket.socket(family, socket.SOCK_STREAM)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind((settings.host, settings.port))
        port.listen(512)
    except (OSError, OverflowError) as error:
        port.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UserError(
                f"port {settings.port} is in use; choose another with --port, or 0 for any"
            ) from error
        raise UserError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
    return port
