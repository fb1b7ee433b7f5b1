"""A step of training under torch.compile has the loss and the gradients of one without it.

To be run in a process of its own: the tests check every annotated call, and torch.compile cannot
trace the checks.
"""

import logging
import tempfile
from typing import Any

import torch
import torch._dynamo

from nestling.models import HopeForCausalLM, create

SHAPE: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_heads": 2}
# a level, and of the self-modifying memories the one for keys
FEW: dict[str, Any] = {"cms.periods": (4,), "cms.intermediate_size": 8}
FEW |= {f"self_titans.adaptive_{name}": False for name in ("v", "eta", "alpha")}
PERIODS = dict.fromkeys(("self_titans.period", "self_titans.projection_period"), 4)


def narrow(family: str) -> HopeForCausalLM:
    """One repeat of the pattern, in training."""
    more: dict[str, Any] = PERIODS if family in ("hope", "together") else {}
    if family == "together":
        family, more = "hope", more | {"pattern": ("attention", "self_titans", "cms")} | FEW
    return create(f"{family}-tiny", num_hidden_layers=1, **SHAPE, **more).train()


def text(rows: int, length: int) -> torch.Tensor:
    """Fixed tokens."""
    return torch.randint(32, (rows, length), generator=torch.Generator().manual_seed(1))


def step(family: str, length: int) -> None:
    """Loss and gradients of both."""
    model, ids, found = narrow(family), text(2, length), []
    for called in (torch.compile(model, backend="aot_eager"), model):
        model.zero_grad()
        loss = called(ids, labels=ids).loss
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach(), **gradients})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"], "nothing was compiled"
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def trainer(length: int) -> None:
    """The losses of two steps."""
    from transformers import Trainer, TrainingArguments  # takes seconds, and most need none

    losses = []
    for backend in (None, "aot_eager"):
        rows = [{"input_ids": row, "labels": row} for row in text(4, length)]
        with tempfile.TemporaryDirectory() as path:
            arguments = TrainingArguments(
                output_dir=path, per_device_train_batch_size=2, max_steps=2, use_cpu=True,
                report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1,
                torch_compile=backend is not None, torch_compile_backend=backend,
            )  # fmt: skip
            run = Trainer(model=narrow("hope"), args=arguments, train_dataset=rows)
            run.train()
        losses.append([x["loss"] for x in run.state.log_history if "loss" in x])
    assert len(losses[0]) == 2
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def main(length: int, families: list[str]) -> None:
    """Each by itself, nothing compiled before.

    `trainer` is transformers' Trainer, which compiles hope, and `together` one model of what
    Transformer++ and Hope are made of.
    """
    torch._logging.set_logs(dynamo=logging.ERROR)  # no messages about graph breaks
    for family in families:
        torch._dynamo.reset()
        trainer(length) if family == "trainer" else step(family, length)
