"""Pictures from IDX files, without a network."""

import gzip
import struct

import pytest
import torch

from nestling.core.error import UserError
from nestling.data import fashion


def idx(array: torch.Tensor) -> bytes:
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return head + bytes(array.flatten().tolist())


def test_idx_file_is_read_and_truncated_one_refused():
    array = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(fashion.parse(idx(array)), array)
    for harmed in (idx(array)[:-1], b"", b"\0\0\x0d\x01" + idx(array)[4:]):
        with pytest.raises(UserError, match="fetch the package again"):
            fashion.parse(harmed)


def test_pixels_are_scaled_and_labels_kept(monkeypatch):
    pixels = torch.arange(2 * 28 * 28).reshape(2, 28, 28) % 256
    files = [
        ("usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz", gzip.compress(idx(pixels))),
        (
            "usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx(torch.tensor([3, 9]))),
        ),
    ]
    monkeypatch.setattr(fashion, "fetched", lambda name: True)
    monkeypatch.setattr(fashion, "members", lambda name, pattern: iter(files))
    values, labels = fashion.pictures("test")
    assert labels.tolist() == [3, 9]
    torch.testing.assert_close(values * 0.3530 + 0.2860, pixels / 255, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="train, test"):
        fashion.pictures("validation")
