"""The order of documents in an epoch: a permutation in constant memory."""

import torch

LISTED = 2**20  # up to this many documents the order is a list; beyond, it is computed by place
ROUNDS = 8
MASK = 2**64 - 1


class Order:
    """A permutation of 0 to ``count - 1``, given by ``seed`` and ``epoch``.

    >>> sorted(Order(5, seed=0, epoch=1)[place] for place in range(5))
    [0, 1, 2, 3, 4]
    """

    def __init__(self, count: int, *, seed: int, epoch: int):
        self.count = count
        self._key = seed * 1_000_003 + epoch
        self._half = max(1, (max(0, count - 1).bit_length() + 1) // 2)  # bits
        self._list = None
        if count <= LISTED:
            generator = torch.Generator().manual_seed(self._key)
            self._list = torch.randperm(count, generator=generator)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        """The document at a place of the order."""
        if not 0 <= place < self.count:
            raise IndexError(place)
        if self._list is not None:
            return int(self._list[place])
        place = self._permute(place)
        while place >= self.count:  # the power of four is at most four times the count
            place = self._permute(place)
        return place

    def _permute(self, place: int) -> int:
        """A Feistel network: permutes the numbers of ``2 * _half`` bits."""
        bits = self._half
        left, right = place >> bits, place & (1 << bits) - 1
        for turn in range(ROUNDS):
            mixed = _mix(right ^ _mix(self._key * ROUNDS + turn))
            left, right = right, left ^ mixed >> 64 - bits
        return left << bits | right


def _mix(value: int) -> int:
    """A 64-bit hash: the finaliser of splitmix64 (Steele et al. 2014)."""
    value = value + 0x9E3779B97F4A7C15 & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31
