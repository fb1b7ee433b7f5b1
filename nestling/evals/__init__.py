"""Models measured on tasks: one Result each; named suites; the adapter to lm-eval."""

from nestling.evals.reader import Reader

__all__ = ["Reader"]
