"""Test-time training layers: a small network in each head, trained on the tokens it reads."""

from nestling.memories.ttt.base import TTTState as TTTState
from nestling.memories.ttt.linear import TTTLinear as TTTLinear
from nestling.memories.ttt.mlp import TTTMLP as TTTMLP
