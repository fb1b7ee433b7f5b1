"""State-space memories: Mamba, with a decay per state element, and Mamba-2, with one per head."""

from nestling.memories.mamba.mamba import Mamba as Mamba
from nestling.memories.mamba.mamba2 import Mamba2 as Mamba2
