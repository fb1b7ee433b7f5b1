"""Language models that keep learning: Nested Learning and its model Hope."""

__version__ = "0.1.0.dev0"
