"""The token ids of a corpus, flat and cached."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors import numpy as tensors
from torch import Tensor

from nestling.core.error import UserError
from nestling.data.cache import cache_folder, damaged, keep
from nestling.data.corpus import Corpus
from nestling.data.tokenizer import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


SMALL = 2**16  # ids of a vocabulary up to this size are stored in two bytes


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Token ids of documents, end to end, each between two end tokens.

    Document ``i`` is ``ids[bounds[i] : bounds[i + 1]]``. ``ids`` is a tensor, or a
    ``nestling.data.mapped.MappedIds``, whose slices are tensors.
    """

    ids: Any  # Int[Tensor, "N"], or MappedIds
    bounds: Int[Tensor, "D1"]
    pad_id: int

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.bounds) - 1

    @property
    def num_targets(self) -> int:
        """The number of tokens to predict: all but the first of each document."""
        return len(self.ids) - len(self)

    def lengths(self) -> list[int]:
        """The number of positions of each document: one less than its tokens."""
        return (self.bounds.diff() - 1).tolist()

    def take(self, count: int) -> "Documents":
        """The first ``count`` documents."""
        bounds = self.bounds[: count + 1]
        return Documents(ids=self.ids[0 : int(bounds[-1])], bounds=bounds, pad_id=self.pad_id)


class Prepared(NamedTuple):
    """The text of a run: corpus, tokenizer and token ids."""

    corpus: Corpus
    tokenizer: "PreTrainedTokenizerFast"
    train: Documents
    held_out: Documents


def encode(texts: Iterable[str], tokenizer: "PreTrainedTokenizerFast") -> Documents:
    """Encode texts. Special tokens spelt out in a text are encoded as ordinary text."""
    pieces = list(token_rows(texts, tokenizer))
    flat = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Documents(
        ids=torch.from_numpy(flat),
        bounds=torch.from_numpy(bounds),
        pad_id=tokenizer.pad_token_id,
    )


def token_rows(texts: Iterable[str], tokenizer: "PreTrainedTokenizerFast") -> Iterator[np.ndarray]:
    """Yield the token ids of each text (int32), between two end tokens."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.encode_special_tokens = True
    end, pending = [tokenizer.eos_token_id], iter(texts)
    while batch := list(islice(pending, 64)):
        for encoding in plain.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(end + encoding.ids + end, dtype=np.int32)


def _read(path: Path, pad_id: int) -> dict[str, Documents]:
    try:
        held = tensors.load(path.read_bytes())
        return {
            side: Documents(
                ids=torch.from_numpy(held[f"{side}.ids"].astype(np.int32)),
                bounds=torch.from_numpy(held[f"{side}.bounds"]),
                pad_id=pad_id,
            )
            for side in ("train", "held_out")
        }
    except (SafetensorError, KeyError) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def load_tokens(
    corpus: Corpus, tokenizer: "PreTrainedTokenizerFast"
) -> tuple[Documents, Documents]:
    """The token ids of a corpus as (training, held-out), encoded once and cached."""
    key = f"{corpus.sha256[:16]}-{fingerprint(tokenizer)[:16]}"
    path = cache_folder() / "tokens" / f"{key}.safetensors"
    if path.exists():
        sides = _read(path, tokenizer.pad_token_id)
        return sides["train"], sides["held_out"]
    train = encode(corpus.documents, tokenizer)
    held_out = encode(corpus.held_out, tokenizer)
    small = np.uint16 if len(tokenizer) <= SMALL else np.int32
    arrays = {}
    for side, part in (("train", train), ("held_out", held_out)):
        arrays[f"{side}.ids"] = part.ids.numpy().astype(small)
        arrays[f"{side}.bounds"] = part.bounds.numpy()
    keep(path, tensors.save(arrays))
    return train, held_out
