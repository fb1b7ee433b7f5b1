"""The demonstration: a pretrained model learns a text, a small Hope remembers; a page tells."""

from nestling.demo.run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
