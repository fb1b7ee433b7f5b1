"""Decodes all answers from the output at the last position, as in MAD's compression task."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.memory import Flow
from nestling.evals.figures import judged_rows
from nestling.evals.questions import Questions
from nestling.models.hf import HopeForCausalLM
from nestling.tasks import IGNORED, UNSEEN, TokenTask
from nestling.train import NotFinite, TrainConfig
from nestling.train.schedule import rate


class Readout(nn.Module):
    """A decoder with two layers of the model's width and sinusoidal position embeddings.

    ``logits_t = W2 silu(W1 (h + s_t))`` with h the output at the last position and s_t the sines
    and cosines of t.

    Source: MAD, arXiv 2403.17844, and mad-lab's decoder. Deviates: SiLU, no norm.
    """

    def __init__(self, width: int, vocab_size: int, generator: torch.Generator):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, vocab_size)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.normal_(std=width**-0.5, generator=generator)
                layer.bias.zero_()

    def forward(self, hidden: Float[Tensor, "B D"], length: int) -> Float[Tensor, "B T V"]:
        """The logits at every position of a row of ``length`` tokens."""
        told = hidden[:, None] + sines(length, hidden.shape[-1]).to(hidden)
        return self.second(functional.silu(self.first(told)))


def sines(length: int, width: int) -> Float[Tensor, "T D"]:
    """Sines and cosines of the positions, with periods from 2 pi to 10,000 times 2 pi."""
    speeds = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(length)[:, None] * speeds
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def last(model: HopeForCausalLM, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The output of the backbone at the last position, each row with an empty memory."""
    x = model.backbone.embed_tokens(input_ids.to(model.device))
    return model.backbone.stream(x, None, Flow())[0][:, -1]


def fit_readout(
    model: HopeForCausalLM,
    task: TokenTask,
    loader: Questions,
    config: TrainConfig,
    *,
    after_step: Callable[[int, Readout], bool] | None = None,
) -> tuple[Readout, dict[str, Any]]:
    """Train a model in place together with a readout, with AdamW, every level at every step.

    ``after_step`` gets the number of steps done and ends the training by returning True. Raises
    NotFinite if the loss is not finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    width = model.config.hidden_size
    readout = Readout(width, task.vocab_size, generator).to(model.device)
    weights = [*model.backbone.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(
        weights,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    losses: list[float] = []
    model.train()
    for step in range(config.steps):
        batch = next(loader)
        logits = readout(last(model, batch.input_ids), batch.labels.shape[1])
        labels = batch.labels.to(logits.device)
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise NotFinite(f"loss is {losses[-1]} at step {step + 1}; use a lower learning_rate")
        optimizer.zero_grad()
        loss.backward()
        if config.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, config.max_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share(step, config)
        optimizer.step()
        if after_step is not None and after_step(step + 1, readout):
            break
    model.eval()
    return readout, {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1]}


def share(step: int, config: TrainConfig) -> float:
    """The fraction of the peak learning rate at a step."""
    return rate(
        step,
        steps=config.steps,
        warmup=config.warmup,
        shape=config.schedule,
        decay=config.decay,
        final=config.final_rate,
    )


@torch.no_grad()
def answers_of(
    model: HopeForCausalLM, readout: Readout, input_ids: Int[Tensor, "N T"]
) -> Int[Tensor, "N T"]:
    """The most likely token at every position of rows, decoded from the last position."""
    parts = input_ids.split(64)
    found = [readout(last(model, part), part.shape[1]).argmax(-1).cpu() for part in parts]
    return torch.cat(found)


@torch.no_grad()
def ask_readout(
    model: HopeForCausalLM, readout: Readout, task: TokenTask, *, seed: int = 0, count: int = 100
) -> dict[str, Any]:
    """The most likely token at every labelled position, decoded from the last position."""
    examples = task.examples(UNSEEN + seed, count)
    answers = answers_of(model, readout, examples.input_ids)
    return judged_rows(task, answers, examples.labels) | {"tokens": examples.input_ids.numel()}
