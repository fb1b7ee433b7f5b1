"""The head as a level: written in context by the prediction error of every token."""

from nestling.memories.head.keys import KEYS as KEYS
from nestling.memories.head.level import HeadLevel as HeadLevel
from nestling.memories.head.level import check_slots as check_slots
from nestling.memories.head.step import HeadState as HeadState
