"""Evaluates models on tasks and suites, and through lm-eval."""

from nestling.evals.reader import Reader

__all__ = ["Reader"]
