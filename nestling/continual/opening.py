"""From what a command line names to a learner and its documents."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestling.continual.file import read_memory
from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Options
from nestling.core.error import UserError
from nestling.models.pretrained import VARIANTS, LevelSpec, Stacked, load_stacked, parse_levels


def open_learner(
    model: str | Path | Stacked,
    memory: Path | None = None,
    *,
    levels: str | None = None,
    options: Options = Options(),
    device: str = "cpu",
    must_exist: bool = False,
) -> ContinualLearner:
    """A learner of a model (or of the one in a folder), with the memory in a file if there is one.

    A memory brings its levels and the sizes it was read with; what ``levels`` and ``options`` name
    besides must agree with them. ``memory`` may be a file that is yet to be written, unless it
    ``must_exist``.
    """
    specs = parse_levels(levels) if levels else None
    if memory is None or not (must_exist or memory.exists()):
        learner = ContinualLearner(_stacked(model, specs, "partition", device), options=options)
        if memory is not None:
            learner.seen.note(memory)
        return learner
    about = read_memory(memory).about
    variant = about["variant"]
    if specs is None and variant in VARIANTS:
        specs = tuple(LevelSpec.of(level) for level in about["stacking"])
    there: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["options"].items()
        if value is not None
    }
    said = {k: v for k, v in dataclasses.asdict(options).items() if v is not None}
    base = _stacked(model, specs, variant if variant in VARIANTS else "partition", device)
    learner = ContinualLearner(base, options=Options(**(there | said)))
    learner.load(memory)
    return learner


def _stacked(
    model: str | Path | Stacked, specs: tuple[LevelSpec, ...] | None, variant: str, device: str
) -> Stacked:
    return model if isinstance(model, Stacked) else load_stacked(model, specs, variant, device)


def read_documents(texts: Sequence[str | Path]) -> list[tuple[str, str]]:
    """Name and text of each: a file, ``-`` for the input, or the text itself if it has a space."""
    return [_document(str(text)) for text in texts]


def _document(text: str) -> tuple[str, str]:
    if text == "-":
        return "-", sys.stdin.read()
    path = Path(text)
    try:
        if path.is_file():
            return path.name, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; convert it first") from error
    except OSError as error:
        if " " not in text:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    if any(map(str.isspace, text)):
        return "text", text
    raise UserError(f"there is no file {text}; a text given directly needs a space in it")
