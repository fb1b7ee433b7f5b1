"""The state of a run: everything that the next step depends on, and how it is saved."""

import dataclasses
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.data import Batch
from nestling.models.cache import MemoryCache, fill_state, named_tensors
from nestling.models.hf import HopeForCausalLM
from nestling.optim import Leveled
from nestling.optim.build import build
from nestling.train.checkpoint import (
    checkpoint_path,
    keep_newest,
    load_model_tensors,
    model_tensors,
    random_state,
    read_newest,
    set_random_state,
    write_checkpoint,
)
from nestling.train.config import ADAMW, TrainConfig
from nestling.train.groups import parameter_groups
from nestling.train.ranks import ALONE, Ranks
from nestling.train.same import architecture, check_same
from nestling.train.schedule import rate
from nestling.train.step import precision, read_batch, targets, token_losses


@runtime_checkable
class Batches(Protocol):
    """An endless iterator of batches whose position can be saved, like ``nestling.data.Loader``."""

    def __iter__(self) -> Iterator[Batch]:
        """Continue at the current position."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position, as plain values, lists, dicts and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        ...


class NotFinite(UserError):
    """A non-finite loss or gradient; the run stopped before it could affect any weights."""


def groups_of(model: HopeForCausalLM, config: TrainConfig, optimizer: str) -> list[dict[str, Any]]:
    """The groups of a model's parameters for an optimizer by name, with periods and rates."""
    return parameter_groups(
        model,
        weight_decay=config.weight_decay,
        periods=model.parameter_periods(),
        shares=model.parameter_shares(),
        rates=model.parameter_rates(by_role=config.rates_by_role, layers=config.layer_rate),
        matrices=optimizer != ADAMW,
    )


def optimizer_of(
    model: HopeForCausalLM,
    config: TrainConfig,
    optimizer: str = ADAMW,
    groups: list[dict[str, Any]] | None = None,
) -> Leveled:
    """An optimizer by name, wrapped in ``Leveled``; by default for ``groups_of`` the model."""
    groups = groups_of(model, config, optimizer) if groups is None else groups
    betas = (config.beta1, config.beta2)
    inner: Any = build(optimizer, model, groups, lr=config.learning_rate, betas=betas)
    if model.device.type != "cpu" and hasattr(inner, "nonfinite"):
        # a run has checked all gradients already; another check would wait for the device again
        inner.nonfinite = "ignore"
    return Leveled(inner, tokens_per_step=config.tokens_per_step, max_norm=config.max_norm)


@dataclasses.dataclass
class Totals:
    """Totals over a run so far."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # labelled tokens trained on
    seconds: float = 0.0  # time in steps
    waited: float = 0.0  # seconds of it waiting for batches
    first_loss: float = math.nan  # nats per token, before any update
    loss: float = math.nan  # nats per token, of the last step
    grad_norm: float = math.nan  # of the last step, before clipping


class Run:
    """A model with its optimizer, its position in the text, and the memory of its rows.

    With several processes each of them has a Run, and all call its methods together.
    """

    def __init__(
        self,
        model: HopeForCausalLM,
        loader: Batches,
        config: TrainConfig,
        optimizer: str = ADAMW,
        ranks: Ranks = ALONE,
    ):
        ranks.check(config.batch_size, config.sequence_length)
        self.ranks = ranks
        self.model = model
        if config.recompute:
            model.gradient_checkpointing_enable()
        self.chain = ranks.chain(model)
        self.reader = ranks.module(model)
        self.loader = loader
        self.config = config
        self.optimizer_name = optimizer
        self.optimizer = ranks.optimizer(
            self.reader,
            groups_of(model, config, optimizer),
            lambda groups: optimizer_of(model, config, optimizer, groups),
        )
        if ranks.world > 1 and getattr(self.optimizer.inner, "hears_inputs", False):
            raise UserError(
                f"{optimizer} needs the inputs of all rows, but each of {ranks.world} processes "
                "has only its own; train with one process, or choose another optimizer"
            )
        self.writer = ranks.writer()
        self.totals = Totals()
        self.memory: MemoryCache | None = None
        self.rate = config.learning_rate  # of the last step
        self._batches = iter(loader)
        self._place = self._take_place()

    def _take_place(self) -> dict[str, Any]:
        """A copy of everything a step changes besides weights, to undo a bad step."""
        return {
            "loader": self.loader.state_dict(),
            "random": random_state(),
            "memory": self.memory,
        }

    def step(self) -> None:
        """Do one optimizer step. Raises NotFinite before any weight has changed."""
        config = self.config
        self._place = self._take_place()
        begin = time.monotonic()
        batches = [next(self._batches) for _ in range(config.accumulation)]
        waited = time.monotonic() - begin
        count = sum(targets(batch) for batch in batches)
        self.model.train()
        self.optimizer.zero_grad()
        parts = []
        for number, batch in enumerate(batches, start=1):
            with self.ranks.gradients_of(self.reader, last=number == len(batches)):
                parts.append(self._backward(batch, count))
        loss, norm = self._read(parts)
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                self.optimizer.zero_grad()
                raise NotFinite(f"{name} is {value} at step {self.totals.step + 1}")
        self.rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group.get("rate_factor", 1.0)
        self.optimizer.step()
        totals = self.totals
        totals.first_loss = loss if totals.step == 0 else totals.first_loss
        totals.loss, totals.grad_norm = loss, norm
        totals.step += 1
        totals.tokens += count
        totals.waited += waited

    def _backward(self, batch: Batch, count: int) -> Tensor:
        """Add the gradients of one batch; return its contribution to the mean loss of the step."""
        own = self.ranks.share(batch)
        with precision(self.model.device, self.config.precision), self.chain.reading():
            logits, memory = read_batch(self.reader, own, self.memory)
        part = token_losses(logits, own.labels).sum() / max(1, count)
        if part.requires_grad:
            (part * self.ranks.world).backward()
        self.memory = self.chain.carried(memory, batch.mask) if self.config.carry else None
        return part.detach()

    def _read(self, parts: list[Tensor]) -> tuple[float, float]:
        """The loss and the gradient norm of the step, over all processes.

        This is the only place where a step waits for its device: both are read together.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        losses = self.ranks.total(torch.stack(parts))
        norm = self.ranks.norm(self.reader, gradients).to(losses.device)
        *found, length = torch.cat((losses, norm[None])).tolist()
        loss = 0.0
        for part in found:  # sum() rounds differently from Python 3.12 on
            loss += part
        return loss, length

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        return config.learning_rate * rate(
            self.totals.step,
            steps=config.steps,
            warmup=config.warmup,
            shape=config.schedule,
            decay=config.decay,
            final=config.final_rate,
        )

    def save(self, folder: Path, *, undo: bool = False) -> Path:
        """Write a checkpoint; with ``undo``, of the state before the step that just failed.

        It covers all rows, so a run may be resumed with another number of processes. For a sharded
        model it is written in the background; ``wait_for_save`` waits for it.
        """
        place = self._place if undo else self._take_place()
        memory = self.ranks.whole(place.pop("memory"))
        path = checkpoint_path(folder, self.totals.step)
        self.ranks.rest(self.model)
        parts: dict[str, Any] = {
            "model": model_tensors(self.model),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.ranks.first:
            parts |= {"memory": memory_state(memory), "run": self._about() | place}
        if self.writer is not None:
            self.writer.begin(path, parts, lambda: self._keep_newest(folder))
        elif self.ranks.first:
            write_checkpoint(path, parts)
            self._keep_newest(folder)
        return path

    def _keep_newest(self, folder: Path) -> None:
        if self.ranks.first:
            keep_newest(folder, self.config.keep)

    @property
    def save_failed(self) -> bool:
        """Whether writing a checkpoint has failed; ``wait_for_save`` raises the error."""
        return self.writer is not None and self.writer.failed

    def wait_for_save(self) -> None:
        """Wait until the last checkpoint is written; all processes call this.

        Raises UserError, like ``save``, if one of them could not write.
        """
        if self.writer is not None:
            self.writer.wait()

    def _about(self) -> dict[str, Any]:
        """The part of a checkpoint that describes the run, without tensors."""
        return {
            "totals": dataclasses.asdict(self.totals),
            "config": dataclasses.asdict(self.config),
            "architecture": architecture(self.model),
            "optimizer": self.optimizer_name,
        }

    def restore(self, folder: Path) -> bool:
        """Restore the newest complete checkpoint in ``folder``; False if there is none."""
        found = read_newest(folder, self._tell)
        if found is None:
            return False
        path, parts = found
        run = parts["run"]
        check_same(self.model, self.config, self.optimizer_name, run, path)
        load_model_tensors(self.model, parts["model"], path)
        self.optimizer.load_state_dict(parts["optimizer"])
        self.totals = Totals(**run["totals"])
        self.loader.load_state_dict(run["loader"])
        self._batches = iter(self.loader)
        self.memory = self.ranks.own(self._memory_of(parts["memory"]))
        set_random_state(run["random"])
        return True

    def _tell(self, text: str) -> None:
        if self.ranks.first:
            print(f"warning: {text}", file=sys.stderr)

    def _memory_of(self, state: dict[str, Any] | None) -> MemoryCache | None:
        """The memory of all rows, from a saved state."""
        cache = memory_of(self.ranks.outline(self.model), state)
        return None if cache is None else cache.to(self.model.device)


def memory_state(cache: MemoryCache | None) -> dict[str, Any] | None:
    """The memory of the rows of a run, as a tree of tensors and numbers."""
    if cache is None:
        return None
    states = dict(named_tensors(cache.states))
    return {"columns": cache.columns, "tokens": cache.tokens, "states": states}


def memory_of(model: HopeForCausalLM, state: dict[str, Any] | None) -> MemoryCache | None:
    """The inverse of ``memory_state``, on the device of its tensors."""
    if state is None:
        return None
    cache = model.new_cache()
    cache.columns, cache.tokens = state["columns"], state["tokens"]
    tensors = {f"states.{name}": value for name, value in state["states"].items()}
    cache.states = fill_state(model.init_states(cache.batch_size), "states", tensors)
    return cache
