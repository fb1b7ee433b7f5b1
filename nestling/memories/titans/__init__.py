"""Titans: the neural long-term memory, alone and in three architectures with attention."""

from nestling.memories.titans.mac import TitansMAC as TitansMAC
from nestling.memories.titans.mag import TitansMAG as TitansMAG
from nestling.memories.titans.mal import TitansMAL as TitansMAL
from nestling.memories.titans.memory import Titans as Titans
