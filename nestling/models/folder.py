"""Save and load a trained model in a folder, in the format of transformers."""

import contextlib
import json
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from transformers.utils import logging

from nestling.core.device import find_device
from nestling.core.error import UserError
from nestling.data import check_vocabulary, read_tokenizer
from nestling.models.config import HopeConfig
from nestling.models.hf import HopeForCausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@contextlib.contextmanager
def no_bars() -> Generator[None]:
    """Silence the progress bars of reading and writing one file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_model(
    model: HopeForCausalLM, tokenizer: "PreTrainedTokenizerFast", directory: Path
) -> None:
    """Save model and tokenizer in the format of transformers; a full disk raises UserError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with no_bars(), tempfile.TemporaryDirectory(dir=directory, prefix=".model.") as draft:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            for file in Path(draft).iterdir():
                os.replace(file, directory / file.name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot save the model in {directory} ({reason}); free some space, then --resume"
        ) from error


def load_model(
    directory: Path, device: str = "cpu"
) -> tuple[HopeForCausalLM, "PreTrainedTokenizerFast"]:
    """Load the model and tokenizer that training saved in ``directory``, in evaluation mode.

    Raises UserError if there is none, if it is truncated or of another architecture, or if the
    tokenizer does not belong to it.
    """
    place = find_device(device)
    _check_config(directory)
    try:
        with no_bars():
            # transformers' annotation does not know the second value
            model, about = HopeForCausalLM.from_pretrained(  # ty: ignore[not-iterable]
                directory, local_files_only=True, output_loading_info=True
            )
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"the model in {directory} cannot be read ({reason}); train or copy it again"
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if about[kind]:
            name = sorted(map(str, about[kind]))[0]
            raise UserError(
                f"the weights in {directory} do not fit its config.json ({name}); use both files "
                "of the same training"
            )
    _align(model)
    tokenizer = read_tokenizer(directory)
    check_vocabulary(tokenizer, model.config.vocab_size)
    # rows of a padded vocabulary are no tokens and must never be generated
    padding = list(range(len(tokenizer), model.config.vocab_size))
    model.generation_config.suppress_tokens = padding or None
    return model.to(place).eval(), tokenizer


def _align(model: HopeForCausalLM) -> None:
    """Copy the weights to 64-byte boundaries, whatever their alignment in the file.

    torch aligns its own tensors this way, and the alignment decides in which order products are
    summed: the results are then bit-identical to those of the trained model.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _check_config(directory: Path) -> None:
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"{directory} contains no model; give a folder written by `nestling train --out`"
        )
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read; train the model again") from error
    if kind != HopeConfig.model_type:
        raise UserError(
            f"{directory} contains a model of type {kind!r}, not {HopeConfig.model_type!r}"
        )
