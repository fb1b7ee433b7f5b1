"""Open a learner and its documents from the names on a command line."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestling.continual.file import read_memory
from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Options
from nestling.core.error import UserError
from nestling.data.textfiles import decode_text, documents_in, named_field
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
    """A learner of a model (or of the one in a folder), with the memory from a file if it exists.

    The memory determines levels and reading options; ``levels`` and ``options`` must agree with it.
    ``memory`` may be a file that does not exist yet, unless ``must_exist``.
    """
    specs = parse_levels(levels) if levels else None
    if memory is None or not (must_exist or memory.exists()):
        learner = ContinualLearner(_stack(model, specs, "partition", device), options=options)
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
        # without a level that reading writes there is only a window
        if value is not None and (about["levels"] or name == "window")
    }
    said = {k: v for k, v in dataclasses.asdict(options).items() if v is not None}
    base = _stack(model, specs, variant if variant in VARIANTS else "partition", device)
    learner = ContinualLearner(base, options=Options(**(there | said)))
    learner.load(memory)
    return learner


def _stack(
    model: str | Path | Stacked, specs: tuple[LevelSpec, ...] | None, variant: str, device: str
) -> Stacked:
    return model if isinstance(model, Stacked) else load_stacked(model, specs, variant, device)


def read_documents(texts: Sequence[str | Path]) -> list[tuple[str, str]]:
    """The name and text of each document named, read as in ``nestling train``.

    A name is a file or folder (``nestling.data.textfiles.documents_in``; ``FILE#FIELD`` names the
    field of records), ``-`` for standard input, or the text itself if it contains a space.
    """
    return [document for text in texts for document in _documents(str(text))]


def _documents(text: str) -> list[tuple[str, str]]:
    if text == "-":
        return [("-", _input())]
    try:
        path, field = named_field(text)
        if path.exists():
            return [(document.name, document.text) for document in documents_in(path, field)]
    except OSError as error:
        if " " not in text:
            raise UserError(f"cannot read {text}: {error.strerror}") from error
    if any(map(str.isspace, text)):
        return [("text", text)]
    raise UserError(f"there is no file {text}; a text given directly must contain a space")


def _input() -> str:
    text = decode_text(sys.stdin.buffer.read(), "the input")
    if not text.strip():
        raise UserError("the input is empty; give UTF-8 text with at least one word")
    return re.sub("\r\n?", "\n", text)
