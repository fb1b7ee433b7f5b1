"""Trackers, which show the figures of a run beside those of others: TensorBoard and trackio."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nestling.core.error import UserError

MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}
TRACKERS = ("none", *MODULES)
PROJECT = "nestling"  # the name of the project in trackio


@runtime_checkable
class Tracker(Protocol):
    """Receives the figures of a run."""

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the numbers of a log line; other values are ignored."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


def numbers(values: Mapping[str, Any]) -> dict[str, float | int]:
    """The numbers in a log line, without the step.

    >>> numbers({"step": 3, "loss": 2.5, "fired": ["weights"]})
    {'loss': 2.5}
    """
    kinds = (float, int)
    return {n: v for n, v in values.items() if n != "step" and isinstance(v, kinds)}


class TensorBoard:
    """Event files in ``FOLDER/tensorboard``; points after step ``after`` are dropped."""

    def __init__(self, folder: Path, config: Mapping[str, Any], after: int):
        board: Any = _package("tensorboard")
        self._writer = board.SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Trackio:
    """A run in trackio's project "nestling", named like the folder; a resumed run continues it."""

    def __init__(self, folder: Path, config: Mapping[str, Any], after: int):
        self._trackio: Any = _package("trackio")
        resume = "allow" if after else "never"
        self._trackio.init(
            project=PROJECT, name=folder.resolve().name, config=dict(config), resume=resume
        )

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a point to each curve."""
        self._trackio.log(numbers(values), step=values["step"])

    def close(self) -> None:
        """Write what is left."""
        self._trackio.finish()


KINDS: dict[str, Any] = {"tensorboard": TensorBoard, "trackio": Trackio}


def check_tracker(name: str) -> None:
    """Raise UserError for a tracker that is unknown or not installed."""
    if name not in TRACKERS:
        raise UserError(f"--track is {name!r}; choose one of {', '.join(TRACKERS)}")
    if name != "none":
        _package(name)


def open_tracker(
    name: str, folder: Path, config: Mapping[str, Any], after: int = 0
) -> Tracker | None:
    """The tracker for a run in ``folder`` that starts after step ``after``; None for "none".

    Raises UserError like ``check_tracker``.
    """
    check_tracker(name)
    return None if name == "none" else KINDS[name](folder, config, after)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise UserError(f"--track {name} needs {name}: pip install 'nestling[track]'") from error
