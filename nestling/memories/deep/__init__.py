"""Networks written by gradients: dot product, windows, and orthogonal momentum."""

from nestling.memories.deep.dla import DLA as DLA
