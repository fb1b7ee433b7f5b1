"""Fashion-MNIST from its Debian package: small pictures of clothes in ten classes."""

import gzip
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.data.packages import fetch, fetched, members

PACKAGE = "dataset-fashion-mnist"
LICENCE = "MIT"
CLASSES = 10
FILES = {"train": "train", "test": "t10k"}


class Pictures(NamedTuple):
    """Standardised pictures and their classes."""

    values: Float[Tensor, "N 28 28"]
    labels: Int[Tensor, " N"]

    def pick(self, index: Int[Tensor, " M"]) -> "Pictures":
        """The pictures at ``index``, in that order."""
        return Pictures(self.values[index], self.labels[index])


def parse(content: bytes) -> Int[Tensor, "N *shape"]:
    """Parse an array of bytes in the IDX format. Raises UserError for any other content."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError("the file is not an IDX file of bytes; fetch the package again")
    dimensions = content[3]
    head = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:head], dtype=">i4").tolist()
    values = np.frombuffer(content[head:], dtype=np.uint8)
    if values.size != np.prod(shape):
        raise UserError("the IDX file is truncated; fetch the package again")
    return torch.from_numpy(values.reshape(shape).copy()).long()


def pictures(split: str) -> Pictures:
    """The 60,000 pictures of "train" or the 10,000 of "test", fetched on first use.

    Values have mean 0 and standard deviation 1 over the training pictures. Licence: MIT. Raises
    UserError for another split, or without network or apt.
    """
    if split not in FILES:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(FILES)}")
    if not fetched(PACKAGE):
        fetch(PACKAGE)
    pattern = rf"/fashion-mnist/{FILES[split]}-(images-idx3|labels-idx1)-ubyte\.gz$"
    files = [parse(gzip.decompress(content)) for _, content in members(PACKAGE, pattern)]
    values, labels = files
    return Pictures((values.float() / 255 - 0.2860) / 0.3530, labels)
