"""Models that go on learning from what they read, and the memory files they keep it in."""

from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Options, Reading

__all__ = ["ContinualLearner", "Options", "Reading"]
