"""One training run: resumable to the bit, stoppable at any step."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from nestling.data import Batch
from nestling.models.hf import HopeForCausalLM
from nestling.report.progress import Progress
from nestling.train.config import ADAMW, TrainConfig
from nestling.train.evaluate import Evaluation, evaluate
from nestling.train.log import Log
from nestling.train.meter import Meter
from nestling.train.ranks import ALONE, Ranks
from nestling.train.run import Batches, NotFinite, Run
from nestling.train.stop import stoppable
from nestling.train.track import check_tracker, open_tracker

CHECKPOINTS = "checkpoints"
LOG = "log.jsonl"


def train(
    model: HopeForCausalLM,
    loader: Batches,
    config: TrainConfig,
    *,
    directory: Path | None = None,
    held_out: Callable[[], Iterable[Batch]] | None = None,
    resume: bool = False,
    quiet: bool = False,
    after_step: Callable[[Run], bool | None] | None = None,
    optimizer: str = ADAMW,
    ranks: Ranks = ALONE,
    track: str = "none",
) -> dict[str, Any]:
    """Train ``model`` in place for ``config.steps`` optimizer steps and return the metrics.

    ``optimizer`` is a name of ``nestling.optim.build.optimizer_names()``. Batches come from
    ``loader`` (an endless iterable with ``state_dict``); ``held_out`` returns new evaluation
    batches. With ``directory``, checkpoints and ``log.jsonl`` are written there, and ``resume``
    continues from the newest checkpoint, on a CPU to the same bits as an uninterrupted run.

    Ctrl-C finishes the step, saves, and returns with ``interrupted`` True; without ``directory`` it
    raises KeyboardInterrupt. SIGTERM, which schedulers send before they reclaim a machine, does the
    same. ``after_step`` ends the run by returning True, which also counts as ``interrupted``.

    With ``ranks`` every process of the run calls this with the same model, text and settings; the
    first one writes files and messages. ``track`` also sends the log to TensorBoard or trackio
    (``nestling.train.track``).

    Raises NotFinite for a non-finite loss or gradient, after saving the last good state, and
    UserError if a file cannot be written or ``track`` is not installed.
    """
    check_tracker(track)
    torch.manual_seed(config.seed)
    run = Run(model, loader, config, optimizer, ranks)
    folder = None if directory is None else directory / CHECKPOINTS
    if resume and folder is not None:
        run.restore(folder)
    log = _log(run, directory, track)
    meter = Meter(run)
    figures: Evaluation | None = None
    saved, ended = run.totals.step, False
    quiet = quiet or not ranks.first
    telling = Progress("steps", quiet=quiet, ends=True)
    with contextlib.closing(log), stoppable() as stopped, telling as progress:
        progress.begin(done=run.totals.step)
        while run.totals.step < config.steps:
            if ranks.any(ended or stopped.is_set() or run.save_failed):
                break
            _guarded_step(run, folder)
            step = run.totals.step
            pace = meter.figures()
            progress.show(step, config.steps, _progress_text(run, pace))
            if held_out and _due(step, config.evaluate_every, config.steps):
                figures = _evaluate(run, held_out)
            else:
                figures = None
            log.write(**_line(run, figures), **pace)
            if after_step is not None and after_step(run):
                ended = True
            if folder and _due(step, config.save_every, config.steps):
                run.save(folder)
                saved = step
        interrupted = run.totals.step < config.steps
        run.wait_for_save()
        if folder and saved != run.totals.step:
            run.save(folder)
            run.wait_for_save()
    if folder is None and ranks.any(stopped.is_set()):
        # without a folder the run cannot be resumed, and a partly trained model is not measured
        raise KeyboardInterrupt
    if held_out and figures is None and not interrupted:
        figures = _evaluate(run, held_out)
    metrics = _metrics(run, figures, interrupted)
    return metrics | ({"terminated": True} if ranks.any(stopped.terminated) else {})


def _log(run: Run, directory: Path | None, track: str) -> Log:
    """The log of a run, which only the first process writes."""
    if directory is None or not run.ranks.first:
        return Log(None)
    after = run.totals.step
    tracker = open_tracker(track, directory, dataclasses.asdict(run.config), after)
    return Log(directory / LOG, after, tracker)


def _progress_text(run: Run, pace: Mapping[str, float | int]) -> str:
    parts = [f"loss {run.totals.loss:.3f}", f"{speed(run):,.0f} tokens/s"]
    if "utilisation" in pace:
        parts.append(f"{pace['utilisation']:.1%} of peak")
    if pace["waiting"] >= 0.01:
        parts.append(f"{pace['waiting']:.0%} waiting")
    return " | ".join([*parts, f"writes {', '.join(run.optimizer.fired) or '-'}"])


def _due(step: int, every: int, steps: int) -> bool:
    return step == steps or (every > 0 and step % every == 0)


def _guarded_step(run: Run, folder: Path | None) -> None:
    """Do one step; if it is not finite, save the state before it and say how to continue."""
    begin = time.monotonic()
    try:
        run.step()
    except NotFinite as error:
        lower = f"learning_rate={run.config.learning_rate / 3:.1g}"
        if folder is None:
            raise NotFinite(f"{error}; start again with a lower learning rate, {lower}") from error
        path = run.save(folder, undo=True)
        run.wait_for_save()
        raise NotFinite(
            f"{error}; the state before it is saved in {path}: continue with a lower learning "
            f"rate, --resume --set {lower}"
        ) from error
    run.totals.seconds += time.monotonic() - begin


def _evaluate(run: Run, held_out: Callable[[], Iterable[Batch]]) -> Evaluation:
    config = run.config
    return evaluate(
        run.model,
        held_out(),
        carry=config.carry,
        dtype=config.precision,
        ranks=run.ranks,
    )


def speed(run: Run) -> float:
    """Labelled tokens trained on per second, without evaluation and saving."""
    return run.totals.tokens / run.totals.seconds if run.totals.seconds else 0.0


def _line(run: Run, figures: Evaluation | None) -> dict[str, Any]:
    totals = dataclasses.asdict(run.totals)
    del totals["first_loss"]
    line = totals | {"learning_rate": run.rate, "fired": list(run.optimizer.fired)}
    if figures is not None:
        line |= {"val_loss": figures.loss, "val_perplexity": figures.perplexity}
    return line


def _metrics(run: Run, figures: Evaluation | None, interrupted: bool) -> dict[str, Any]:
    totals = run.totals
    metrics: dict[str, Any] = {
        "steps": totals.step,
        "tokens": totals.tokens,
        "first_loss": totals.first_loss,
        "last_loss": totals.loss,
        "tokens_per_second": speed(run),
        "num_parameters": sum(p.numel() for p in run.model.parameters()),
        "interrupted": interrupted,
    }
    if figures is not None:
        metrics |= {
            "val_loss": figures.loss,
            "val_perplexity": figures.perplexity,
            "val_tokens": figures.tokens,
            "val_by_position": [dataclasses.asdict(bucket) for bucket in figures.by_position],
        }
    return metrics
