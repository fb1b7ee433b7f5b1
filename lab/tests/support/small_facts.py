"""A tiny model and a corpus of a few lines, for studies of pretrained models."""

import random

from nestling.data import train_tokenizer
from nestling.models.pretrained import new_llama
from nestling.tasks.facts import document
from nestling_lab.studies.continual.base import Ready


class Made:
    """A generated corpus."""

    documents = [f"number {i} and {i * i}. " * 3 for i in range(12)]
    held_out = [f"number {i} is {i}. " * 3 for i in range(20, 26)]
    tag = "made@0"

    def __init__(self, name):
        self.name = name


def tiny_reader():
    """An untrained Llama that knows the words of the documents."""
    tokenizer = train_tokenizer([document(random.Random(i)).text for i in range(40)], 400)
    model = new_llama(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        layers=3,
        heads=2,
        length=1024,
        seed=0,
    )
    return Ready(model.eval(), tokenizer)
