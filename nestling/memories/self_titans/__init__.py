"""Self-modifying Titans: the sequence memory of Hope."""

from nestling.memories.self_titans.memory import SelfTitans as SelfTitans
from nestling.memories.self_titans.state import SelfTitansState as SelfTitansState
