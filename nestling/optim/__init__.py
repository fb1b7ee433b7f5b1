"""Optimizers, as memories of gradients, and the clock that says which level is written when."""

from nestling.optim.leveled import Leveled

__all__ = ["Leveled"]
