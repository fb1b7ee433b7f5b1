"""Benchmarks: trained models in use, and the cost of everything."""

from nestling_lab.bench.memory import peak_of
from nestling_lab.bench.stream import stream
from nestling_lab.bench.training_cost import Shape, resolve, training

__all__ = ["Shape", "peak_of", "resolve", "stream", "training"]
