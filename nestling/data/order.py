"""The order of an epoch's documents: a permutation that needs no more memory for more of them."""

import torch

LISTED = 2**20  # documents up to which the order is drawn as a list; beyond, number by number
ROUNDS = 8
MASK = 2**64 - 1


class Order:
    """A permutation of the numbers from 0 to ``count - 1`` that ``seed`` and ``epoch`` decide.

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
        """The number at a place."""
        if not 0 <= place < self.count:
            raise IndexError(place)
        if self._list is not None:
            return int(self._list[place])
        place = self._permute(place)
        while place >= self.count:  # at most four numbers of the power of two for each of ours
            place = self._permute(place)
        return place

    def _permute(self, place: int) -> int:
        """A Feistel network: a permutation of all numbers of twice ``_half`` bits."""
        bits = self._half
        left, right = place >> bits, place & (1 << bits) - 1
        for turn in range(ROUNDS):
            mixed = _mix(right ^ _mix(self._key * ROUNDS + turn))
            left, right = right, left ^ mixed >> 64 - bits
        return left << bits | right


def _mix(value: int) -> int:
    """A hash of 64 bits: the finaliser of splitmix64 (Steele et al. 2014)."""
    value = value + 0x9E3779B97F4A7C15 & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31
