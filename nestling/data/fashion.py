"""Fashion-MNIST out of its Debian package: small pictures of clothes in ten classes."""

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
    """Pictures with values around zero, and the class of each."""

    values: Float[Tensor, "N 28 28"]
    labels: Int[Tensor, " N"]

    def pick(self, index: Int[Tensor, " M"]) -> "Pictures":
        """Some of them, in the order of ``index``."""
        return Pictures(self.values[index], self.labels[index])


def parse(content: bytes) -> Int[Tensor, "N *shape"]:
    """An array of bytes in the IDX format; other content raises UserError."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UserError("this is no IDX file of bytes; fetch the package again")
    dimensions = content[3]
    head = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:head], dtype=">i4").tolist()
    values = np.frombuffer(content[head:], dtype=np.uint8)
    if values.size != np.prod(shape):
        raise UserError("an IDX file is cut short; fetch the package again")
    return torch.from_numpy(values.reshape(shape).copy()).long()


def pictures(split: str) -> Pictures:
    """The 60,000 pictures of "train" or the 10,000 of "test", fetched where they are not here.

    Values are scaled to mean 0 and deviation 1 over the training pictures. Licence: MIT. Raises
    UserError without network or apt.
    """
    if split not in FILES:
        raise UserError(f"no split {split!r}; choose one of {', '.join(FILES)}")
    if not fetched(PACKAGE):
        fetch(PACKAGE)
    pattern = rf"/fashion-mnist/{FILES[split]}-(images-idx3|labels-idx1)-ubyte\.gz$"
    files = [parse(gzip.decompress(content)) for _, content in members(PACKAGE, pattern)]
    values, labels = files
    return Pictures((values.float() / 255 - 0.2860) / 0.3530, labels)
