"""The models of the demonstration, each trained on the same tokens and measured on the same."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nestling.core.device import find_device
from nestling.data import Loader, Prepared
from nestling.models import create
from nestling.models.factory import embedding_parameters
from nestling.models.hf import HopeForCausalLM
from nestling.train import TrainConfig, held_out_batches, train
from nestling.train.job import IDS, memory_period


class Contender(NamedTuple):
    """A model under comparison."""

    title: str
    preset: str
    overrides: dict[str, Any]


# tokens that attention sees: documents are thousands long, and four training rows stay in sight
WINDOW = 1024
HOPE, FROZEN, TRANSFORMER = "hope", "hope-frozen", "transformer"
CONTENDERS = {
    HOPE: Contender("Hope", "hope-tiny", {}),
    FROZEN: Contender("Hope trained with writes off", "hope-tiny", {"writes": False}),
    TRANSFORMER: Contender("Transformer++", "transformer-tiny", {"attention.window": WINDOW}),
}


@dataclass(frozen=True)
class Trained:
    """A contender after its training."""

    model: HopeForCausalLM
    metrics: dict[str, Any]  # those of ``train``, with num_non_embedding and seconds
    losses: list[float]  # nats for each token, step by step


class Entry(NamedTuple):
    """A contender ready to be trained."""

    model: HopeForCausalLM
    loader: Loader


def enter(
    text: Prepared, overrides: Mapping[str, Any], config: TrainConfig, device: str
) -> dict[str, Entry]:
    """Every contender with fresh weights and a loader of its own.

    ``overrides`` are options that all models share. The loaders give the same batches: documents
    begin at multiples of Hope's memory period for every model alike.
    """
    place = find_device(device)
    ids = {f"{name}_token_id": getattr(text.tokenizer, f"{name}_token_id") for name in IDS}
    models = {
        name: create(
            contender.preset,
            vocab_size=len(text.tokenizer),
            seed=config.seed,
            **ids | dict(overrides) | contender.overrides,
        ).to(place)
        for name, contender in CONTENDERS.items()
    }
    shape = {
        "batch_size": config.batch_size,
        "sequence_length": config.sequence_length,
        "align": memory_period(models[HOPE]),
    }
    return {
        name: Entry(model, Loader(text.train, seed=config.seed, **shape))
        for name, model in models.items()
    }


def train_contender(
    entry: Entry, text: Prepared, config: TrainConfig, *, quiet: bool = False
) -> Trained:
    """Train a model in place and measure it on the held-out text; Ctrl-C ends the program."""
    model, loader = entry
    losses: list[float] = []
    begin = time.monotonic()
    metrics = train(
        model,
        loader,
        config,
        held_out=lambda: held_out_batches(
            text.held_out,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
            align=loader.packer.align,
            max_tokens=config.evaluate_tokens or None,
        ),
        quiet=quiet,
        after_step=_collect(losses),
    )
    if metrics["interrupted"]:
        raise KeyboardInterrupt
    metrics["num_non_embedding"] = metrics["num_parameters"] - embedding_parameters(model)
    metrics["seconds"] = time.monotonic() - begin  # training and measuring
    return Trained(model.eval(), metrics, losses)


def _collect(losses: list[float]) -> Callable[[Any], None]:
    """An ``after_step`` of ``train`` that keeps the loss of every step."""
    return lambda run: losses.append(run.totals.loss)
