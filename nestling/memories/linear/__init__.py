"""Memories that are one matrix for each head: linear attention and the delta family."""
