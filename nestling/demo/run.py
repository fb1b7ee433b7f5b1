"""The demonstration from end to end: train, measure, remember, write, report."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.result import Result, provenance, write_whole
from nestling.data import Documents, Prepared, prepare
from nestling.demo.contenders import (
    CONTENDERS,
    HOPE,
    TRANSFORMER,
    Entry,
    Trained,
    enter,
    train_contender,
)
from nestling.demo.page import comparison, positions, report
from nestling.demo.resume import carry_over
from nestling.models.folder import save_model
from nestling.train import TrainConfig, make_job
from nestling.train.inference import continue_text

STEPS = 100  # of each model; sized so that `make demo` ends within 8 minutes on two cores
MODEL, MEMORY, PAGE, RESULT = "hope", "memory.safetensors", "report.html", "report.json"
PASSAGE = 301  # tokens: no multiple of the memory's period, so that a period is open when saved
CONTINUED = 32  # tokens written on after the passage, here and in the new process
PROMPT, WRITTEN = 48, 80  # tokens of the sample: given, and written at most

Told = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What is trained and on what."""

    corpus: str = "stdlib"  # a name of nestling.data.CORPORA, or a path
    vocab_size: int = 4096  # tokens of the BPE trained on the corpus, at most
    model: Mapping[str, Any] = field(default_factory=dict)  # overrides that all models share
    train: TrainConfig = field(default_factory=TrainConfig)  # the same for all models
    device: str = "cpu"  # a torch device


def make_demo(
    values: Mapping[str, Any],
    *,
    corpus: str = "stdlib",
    vocab_size: int = 4096,
    device: str = "cpu",
) -> Demo:
    """A Demo of which each value is a setting of the runs or an option of every model.

    Raises UserError for a name that is not known to all of them.
    """
    defaults = {"steps": STEPS, "evaluate_tokens": 16384, "save_every": 0}
    names = {"corpus": corpus, "vocab_size": vocab_size, "device": device}
    jobs = [
        make_job(defaults | dict(values), preset=contender.preset, **names)
        for contender in CONTENDERS.values()
    ]
    return Demo(model=jobs[0].model, train=jobs[0].train, **names)


def take_folder(folder: Path) -> None:
    """Make sure that the demonstration may write in ``folder``, before it works for minutes.

    One that an earlier demonstration left is written over; any other must be empty.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --out")
    own = {MODEL, MEMORY, PAGE, RESULT}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [name for name in os.listdir(folder) if name not in own and name[0] != "."]
    except OSError as error:
        raise UserError(
            f"cannot use the folder {folder}: {error.strerror}; choose another with --out"
        ) from error
    if foreign:
        raise UserError(
            f"{folder} holds {sorted(foreign)[0]}, which is no demo's; choose another with --out"
        )
    probe = write_whole(folder / ".probe", b"")
    probe.unlink()


def passage_of(documents: Documents, length: int = PASSAGE) -> Int[Tensor, "N"]:
    """The start of the first document that is long enough, else all of the longest one."""
    lengths = documents.lengths()
    index = next((i for i, n in enumerate(lengths) if n > length), lengths.index(max(lengths)))
    begin, end = documents.bounds[index : index + 2].tolist()
    return documents.ids[begin : min(end - 1, begin + length)].long()


def run_demo(
    demo: Demo, out: Path, *, tell: Told = print, quiet: bool = False, json: Path | None = None
) -> Result:
    """Run the demonstration; leaves the page, the Result, Hope and its memory in ``out``.

    ``json`` is where the Result goes instead of beside the page. Raises UserError for what a user
    can put right, before anything is trained where that is possible.
    """
    begin = time.monotonic()
    tell(f"reading {demo.corpus}")
    text = prepare(demo.corpus, vocab_size=demo.vocab_size)
    tell(
        f"{text.train.num_targets:,} tokens to train on, {text.held_out.num_targets:,} held out, "
        f"{len(text.tokenizer):,} in the vocabulary"
    )
    entries = enter(text, demo.model, demo.train, demo.device)
    take_folder(out)
    trained = train_all(demo, text, entries, tell=tell, quiet=quiet)
    metrics = {name: one.metrics | {"losses": one.losses} for name, one in trained.items()}
    tell(f"\n{comparison(metrics).text()}\n\n{positions(metrics).text()}\n")
    memory = remember(demo, text, trained[HOPE], out, tell=tell)
    sample = write_sample(text, {name: trained[name] for name in (HOPE, TRANSFORMER)})
    tell(f"\n{sample['prompt']}[{CONTENDERS[HOPE].title} goes on:]{sample[HOPE]}\n")
    result = Result(
        name="demo",
        config=dataclasses.asdict(demo),
        metrics={
            "models": metrics,
            "memory": memory,
            "sample": sample,
            "seconds": time.monotonic() - begin,
        },
        seed=demo.train.seed,
        corpus=text.corpus.tag,
        provenance=provenance(demo.device),
    )
    page = report(out / PAGE, result, trained[HOPE].model, text)
    file = result.write(json or out / RESULT)
    tell(f"{result.metrics['seconds']:,.0f} s in all\nthe figures: {file}")
    tell(f"the report:  {page.resolve()}")
    return result


def train_all(
    demo: Demo, text: Prepared, entries: Mapping[str, Entry], *, tell: Told, quiet: bool
) -> dict[str, Trained]:
    """Every contender trained and measured, one after the other."""
    config = demo.train
    trained = {}
    for number, (name, entry) in enumerate(entries.items(), start=1):
        tell(
            f"\n[{number}/{len(entries)}] {CONTENDERS[name].title}: "
            f"{entry.model.num_parameters():,} parameters, {config.steps} steps of "
            f"{config.batch_size} x {config.sequence_length} tokens"
        )
        trained[name] = train_contender(entry, text, config, quiet=quiet)
        metrics = trained[name].metrics
        tell(
            f"held-out perplexity {metrics['val_perplexity']:,.1f} after "
            f"{metrics['tokens']:,} tokens, {metrics['seconds']:,.0f} s"
        )
    return trained


def remember(demo: Demo, text: Prepared, hope: Trained, out: Path, *, tell: Told) -> dict[str, Any]:
    """Save Hope and what it remembers of a passage; a new process goes on from the files."""
    save_model(hope.model, text.tokenizer, out / MODEL)
    passage = passage_of(text.held_out)
    memory = carry_over(
        hope.model,
        out / MODEL,
        out / MEMORY,
        passage,
        count=CONTINUED,
        device=demo.device,
    )
    tell(
        f"memory after {memory['passage_tokens']} tokens: {memory['memory_bytes'] / 1e6:.1f} MB in "
        f"{out / MEMORY}; a new process goes on with "
        f"{'the same' if memory['same_tokens'] else 'OTHER'} {memory['tokens_compared']} tokens, "
        f"largest logit difference {memory['max_logit_difference']:.3g} "
        f"(without the memory: {memory['without_memory']:.3g})"
    )
    return memory


def write_sample(text: Prepared, trained: Mapping[str, Trained]) -> dict[str, str]:
    """The start of an unseen document, and how each model goes on, by its name."""
    start = passage_of(text.held_out, PROMPT)
    prompt = str(text.tokenizer.decode(start.tolist(), skip_special_tokens=True))
    written = {
        name: continue_text(one.model, text.tokenizer, prompt, tokens=WRITTEN, seed=0)[0]
        for name, one in trained.items()
    }
    return {"prompt": prompt, **written}
