"""Memories that are networks written by gradients: DLA, Omega, Atlas and Memora."""

from nestling.memories.deep.atlas import Atlas as Atlas
from nestling.memories.deep.dla import DLA as DLA
from nestling.memories.deep.memora import Memora as Memora
from nestling.memories.deep.omega import Omega as Omega
