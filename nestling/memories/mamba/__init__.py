"""State-space memories: Mamba, whose states decay one by one, and Mamba-2, head by head."""

from nestling.memories.mamba.mamba import Mamba as Mamba
from nestling.memories.mamba.mamba2 import Mamba2 as Mamba2
