"""Continual learning: models that learn from what they read, and their memory files."""

from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Options, Reading

__all__ = ["ContinualLearner", "Options", "Reading"]
