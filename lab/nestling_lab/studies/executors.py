"""Executors that run the cells of a study on other machines.

They work like those of ``concurrent.futures``: ``submit(function, *arguments)`` returns a call with
``done()``, ``result()`` and ``cancel()``.
"""

import contextlib
import importlib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from time import sleep
from typing import Any, Protocol, TypeVar, runtime_checkable

from nestling.core.error import UserError, did_you_mean

LOCAL = "local"  # processes on this machine
LOOK = 0.1  # seconds between two polls of calls
TASK = ("num_cpus", "num_gpus", "memory", "resources")  # options of Ray that are per cell
Value = TypeVar("Value")


@runtime_checkable
class Call(Protocol):
    """A call that runs elsewhere."""

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def result(self) -> Any:
        """The result of the call once it has ended; raises its error."""
        ...

    def cancel(self) -> Any:
        """Cancel the call if it has not started."""
        ...


@runtime_checkable
class Executor(Protocol):
    """An executor of ``concurrent.futures``, Dask or submitit."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Submit a call."""
        ...


def first_done(waiting: list[tuple[Call, Value]]) -> list[tuple[Call, Value]]:
    """Wait until at least one of the calls has ended; return those that have."""
    calls = [call for call, _ in waiting]
    futures = [call for call in calls if isinstance(call, Future)]
    if len(futures) == len(calls):
        wait(futures, return_when=FIRST_COMPLETED)
    while not (found := [pair for pair in waiting if pair[0].done()]):
        sleep(LOOK)
    return found


def open_executor(name: str, options: Mapping[str, Any]) -> AbstractContextManager[Executor | None]:
    """The executor of this name, with its own options, for a context; "local" gives None.

    Raises UserError if it is unknown, not installed or rejects the options.
    """
    if name == LOCAL:
        if options:
            raise UserError("--option does not apply to --executor local; use --workers")
        return contextlib.nullcontext()
    if name not in ENGINES:
        raise UserError(f"unknown executor {name!r}: {did_you_mean(name, [LOCAL, *ENGINES])}")
    module, engine = ENGINES[name]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--executor {name} needs the package {module} ({error}); "
            f"pip install -e 'lab[{name}]' in the checkout"
        ) from error
    return engine(found, options)


@contextlib.contextmanager
def _submitit(module: Any, options: Mapping[str, Any]) -> Generator[Executor]:
    given = {"folder": "runs/jobs"} | dict(options)
    first = {name: given.pop(name) for name in ("folder", "cluster") if name in given}
    with _taking("submitit"):
        executor = module.AutoExecutor(**first)
        executor.update_parameters(**given)
    yield executor


@contextlib.contextmanager
def _ray(module: Any, options: Mapping[str, Any]) -> Generator[Executor]:
    task = {"num_cpus": 1} | {name: x for name, x in options.items() if name in TASK}
    with _taking("ray"):
        module.init(**{name: x for name, x in options.items() if name not in TASK})
        remote = module.remote(**task)(_call)

    class Tasks:
        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
            return remote.remote(fn, *args).future()

    try:
        yield Tasks()
    finally:
        module.shutdown()


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@contextlib.contextmanager
def _dask(module: Any, options: Mapping[str, Any]) -> Generator[Executor]:
    with _taking("dask"):
        client = module.Client(**options)
    with client:
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def _taking(name: str) -> Generator[None]:
    """Turn errors of an engine into a one-line UserError."""
    try:
        yield
    except (TypeError, ValueError, NameError, OSError, RuntimeError) as error:
        raise UserError(f"--executor {name}: {error}; see its --option NAME=VALUE") from error


ENGINES: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "submitit": ("submitit", _submitit),
    "ray": ("ray", _ray),
    "dask": ("distributed", _dask),
}
