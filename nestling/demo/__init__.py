"""The demo: a pretrained model learns a text, a small Hope remembers, and a page shows it."""

from nestling.demo.run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
