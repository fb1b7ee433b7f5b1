"""The demo: a pretrained model learns a text, a small Hope is trained, and a page shows both."""

from nestling.demo.run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
