"""A small model, trained in seconds to read short documents and answer questions about them."""

import functools
import random

import torch
from once import made_once
from torch.nn import functional
from transformers import LlamaForCausalLM

from nestling.continual import ContinualLearner
from nestling.continual.study.plan import Plan
from nestling.data import read_tokenizer, train_tokenizer
from nestling.models.pretrained import new_llama, stack_model, studied_level
from nestling.tasks.facts import document

STEPS, ROWS = 120, 12
# a document of two sentences is known after it
PLAN = Plan(
    makers=("moved",), rank=32, rate=5e-3, rounds=300, replies=4, answers=4, held=0.0, near=1,
    near_count=6, own=1, own_count=4, own_length=24,
)  # fmt: skip


def lesson(rng):
    """A document of made-up facts, and a question about it with the answer."""
    made = document(rng)
    asked = rng.choice(made.questions)
    return f"Text: {made.text}\n{asked.prompt} {asked.answers[0]}\n\n"


@functools.cache
def student():
    """The model and its tokenizer, the same for every call and worker."""
    folder = made_once("student", trained)
    model = LlamaForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    return model, read_tokenizer(folder)


def trained(folder):
    """Train it, and save both."""
    rng = random.Random(0)
    tokenizer = train_tokenizer([lesson(rng) for _ in range(60)], 500)
    model = new_llama(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        layers=4,
        heads=2,
        length=512,
        seed=0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        rows = [tokenizer(lesson(rng), verbose=False)["input_ids"][:160] for _ in range(ROWS)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        wanted = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
        logits = model(input_ids=ids).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_student(**options):
    """A learner of that model that has read nothing; study writes all layers but the lowest."""
    model, tokenizer = student()
    level = studied_level(32, (1, 2, 3))
    return ContinualLearner(stack_model(model, tokenizer, [level], "low-rank"), **options)
