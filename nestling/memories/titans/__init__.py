"""Titans: the neural long-term memory, alone and in three architectures with attention."""

from nestling.memories.titans.memory import Titans as Titans
