"""The demonstration: three models on the same text in minutes, and a page about them."""

from nestling.demo.run import Demo, make_demo, run_demo

__all__ = ["Demo", "make_demo", "run_demo"]
