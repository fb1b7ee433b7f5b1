"""Train a small Hope for a minute, and measure it with its memory writes on and off."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.data import Loader, Prepared, prepare
from nestling.evals.questions import Questions, answers, unseen_examples
from nestling.models import create
from nestling.models.hf import HopeForCausalLM
from nestling.report.boxes import boxes_of
from nestling.tasks.recall import Recall
from nestling.train import TrainConfig, evaluate, held_out_batches, train
from nestling.train.job import IDS, memory_period
from nestling.train.levels import nested_system

TITLES = {"on": "writes on", "off": "writes off"}
PRESET = "hope-tiny"
PAIRS = Recall.Config(keys=8, values=8, period=16)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The options of two trainings of a small Hope: on pairs to recall and on text."""

    pairs: Mapping[str, Any] = field(
        default_factory=lambda: {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2}
    )
    pairs_steps: int = 150  # of 32 sequences
    text: Mapping[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_heads": 4,
            "head_period": 32,
            "head_slots": 512,
        }
    )
    text_steps: int = 60
    text_rate: float = 8e-3  # peak learning rate
    text_rows: int = 8  # streams side by side
    text_length: int = 256  # tokens per stream and step
    corpus: str = "stdlib"  # a name of nestling.data.CORPORA, or a path
    vocab_size: int = 2048  # maximum vocabulary size
    measured: int = 16384  # approximate held-out tokens
    seed: int = 0
    device: str = "cpu"

    def key(self) -> dict[str, Any]:
        """The options that the stages depend on."""
        return dataclasses.asdict(self)


def recall_pairs(trial: Trial, *, quiet: bool = False) -> dict[str, Any]:
    """Train on pairs that are read once; returns accuracy with writes on and off, and chance."""
    task = Recall(PAIRS)
    config = TrainConfig(
        steps=trial.pairs_steps,
        batch_size=32,
        sequence_length=task.length,
        learning_rate=3e-3,
        carry=False,
        save_every=0,
        seed=trial.seed,
    )
    made: dict[str, Any] = {"vocab_size": task.vocab_size, "seed": trial.seed}
    model = create(PRESET, **made, **trial.pairs).to(trial.device)
    train(model, Questions(task, batch_size=32, seed=trial.seed), config, quiet=quiet)
    test = unseen_examples(task, seed=trial.seed, count=200)
    both = with_and_without(model, made, trial.pairs)
    scores = {
        name: task.score(answers(one.eval(), test.input_ids), test.labels)
        for name, one in both.items()
    }
    return {
        **scores,
        "chance": task.chance,
        "pairs": task.config.keys,
        "length": task.length,
        "parameters": model.num_parameters(),
    }


def read_text(trial: Trial, *, quiet: bool = False) -> dict[str, Any]:
    """Train on text; returns held-out perplexity by position with writes on and off."""
    text = prepare(trial.corpus, vocab_size=trial.vocab_size)
    ids = {f"{name}_token_id": getattr(text.tokenizer, f"{name}_token_id") for name in IDS}
    made: dict[str, Any] = {"vocab_size": len(text.tokenizer), "seed": trial.seed, **ids}
    model = create(PRESET, **made, **trial.text).to(trial.device)
    config = TrainConfig(
        steps=trial.text_steps,
        batch_size=trial.text_rows,
        sequence_length=trial.text_length,
        learning_rate=trial.text_rate,
        save_every=0,
        seed=trial.seed,
    )
    shape = {"batch_size": trial.text_rows, "sequence_length": trial.text_length}
    align = memory_period(model)
    train(model, Loader(text.train, seed=trial.seed, align=align, **shape), config, quiet=quiet)
    both = with_and_without(model, made, trial.text)
    return {
        **{name: along(trial, one, text, align) for name, one in both.items()},
        "tokens": trial.text_steps * trial.text_rows * trial.text_length,
        "corpus": text.corpus.name,
        "licence": text.corpus.licence,
        "vocabulary": len(text.tokenizer),
        "parameters": model.num_parameters(),
        "boxes": boxes_of(
            nested_system(model, "adamw", config.tokens_per_step),
            trial.text_steps * trial.text_length,
        ),
    }


def with_and_without(
    model: HopeForCausalLM, made: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, HopeForCausalLM]:
    """The model, and a copy of it whose memories are never written in context."""
    headed = options.get("head_period") is not None
    off = {k: v for k, v in options.items() if not k.startswith("head_")}
    frozen = create(PRESET, **made, **off, writes=False).to(model.device)
    weights = model.state_dict()
    if headed:
        weights = {k: v for k, v in weights.items() if not k.startswith("head_level.")}
    frozen.load_state_dict(weights)
    return {"on": model, "off": frozen}


def along(trial: Trial, model: HopeForCausalLM, text: Prepared, align: int) -> dict[str, Any]:
    """Held-out perplexity, overall and by position in the document."""
    found = evaluate(
        model,
        held_out_batches(
            text.held_out,
            batch_size=trial.text_rows,
            sequence_length=trial.text_length,
            align=align,
            max_tokens=trial.measured,
        ),
    )
    return {
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "by_position": [dataclasses.asdict(bucket) for bucket in found.by_position],
    }
