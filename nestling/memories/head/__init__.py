"""The head as a level: written in context by the error of every prediction."""

from nestling.memories.head.keys import KEYS as KEYS
from nestling.memories.head.level import HeadLevel as HeadLevel
from nestling.memories.head.step import HeadState as HeadState
