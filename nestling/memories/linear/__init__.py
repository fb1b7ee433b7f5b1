"""Memories with one matrix per head: linear attention and the delta family."""
