"""Trains a model on a text and measures it on held-out text."""

from dataclasses import dataclass
from typing import Any

from nestling.core.result import Result, provenance
from nestling.data import Loader, Prepared, prepare
from nestling.models import HopeForCausalLM, create
from nestling.models.factory import embedding_parameters
from nestling.train import NotFinite, TrainConfig, train, train_config
from nestling.train.evaluate import held_out_batches
from nestling_lab.studies.study import Tell, silent

CURVE = 50  # approximate number of points in a loss curve


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text and its layout, the same for all compared models."""

    corpus: str = "stdlib"  # name of a corpus
    vocab_size: int = 4096  # tokens of the BPE trained on it
    align: int = 32  # tokens; documents start at multiples of it

    def prepare(self) -> Prepared:
        """The corpus, tokenizer and token ids, from the cache if possible."""
        return prepare(self.corpus, vocab_size=self.vocab_size)


def train_on_text(
    preset: str,
    overrides: dict[str, Any],
    text: Text,
    config: TrainConfig,
    *,
    tell: Tell = silent,
    device: str = "cpu",
    quiet: bool = True,
    held_out_tokens: int | None = None,
) -> tuple[HopeForCausalLM, dict[str, Any]]:
    """Train a preset from ``config.seed`` and return it with its metrics.

    The tokens and their order depend only on the text, the batch shape and the seed, never on the
    model. A run with a non-finite loss returns ``diverged`` and no figures. It is measured on all
    held-out text or, with ``held_out_tokens``, on whole documents up to that number of tokens, the
    same for every model.
    """
    prepared = text.prepare()
    model = create(preset, vocab_size=len(prepared.tokenizer), seed=config.seed, **overrides)
    model.to(device)
    shape = {
        "batch_size": config.batch_size,
        "sequence_length": config.sequence_length,
        "align": text.align,
    }
    loader = Loader(prepared.train, seed=config.seed, **shape)
    size = {
        "num_parameters": model.num_parameters(),
        "num_non_embedding": model.num_parameters() - embedding_parameters(model),
    }

    curve: list[tuple[int, float]] = []
    every = max(1, config.steps // CURVE)

    def after_step(run: Any) -> None:
        tell(run.totals.step, config.steps, run.totals.loss)
        if run.totals.step % every == 0:
            curve.append((run.totals.tokens, run.totals.loss))

    try:
        metrics = train(
            model,
            loader,
            config,
            held_out=lambda: held_out_batches(
                prepared.held_out, max_tokens=held_out_tokens, **shape
            ),
            quiet=quiet,
            after_step=after_step,
        )
    except NotFinite as error:
        return model, {**size, "diverged": True, "reason": str(error)}
    return model, {**metrics, **size, "loss_curve": curve, "diverged": False}


def text_result(name: str, cell: dict[str, Any], *, tell: Tell, device: str) -> Result:
    """The Result of a cell with ``preset``, ``overrides``, ``text`` and ``train``.

    ``held_out_tokens``, the amount of held-out text to read, is optional.
    """
    text, config = Text(**cell["text"]), train_config(cell["train"])
    _, metrics = train_on_text(
        cell["preset"],
        cell["overrides"],
        text,
        config,
        tell=tell,
        device=device,
        held_out_tokens=cell.get("held_out_tokens"),
    )
    return Result(
        name=name,
        config=cell,
        metrics=metrics,
        seed=config.seed,
        corpus=text.prepare().corpus.tag,
        provenance=provenance(device),
    )
