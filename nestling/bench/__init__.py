"""Measurements of a trained model as it is used."""

from nestling.bench.stream import stream

__all__ = ["stream"]
