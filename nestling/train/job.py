"""Trains a model by names: from preset, corpus and settings to a folder and a Result."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestling.core.device import find_device
from nestling.core.error import UserError, did_you_mean
from nestling.core.result import Result, provenance, write_json
from nestling.data import Batch, Documents, Loader, Prepared, prepare
from nestling.data.preparing import tokenizer_of
from nestling.models import configure, create
from nestling.models.factory import without_unread
from nestling.models.folder import save_model
from nestling.models.hf import HopeForCausalLM
from nestling.optim.build import default_lr
from nestling.train.config import TrainConfig, field_names, train_config
from nestling.train.evaluate import held_out_batches
from nestling.train.loop import train
from nestling.train.ranks import ALONE, Ranks
from nestling.train.track import check_tracker

JOB = "run.json"
IDS = ("bos", "eos", "pad")  # special tokens that model and tokenizer must agree on


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job: the model, the text, and the settings."""

    preset: str = "hope-tiny"  # a name of nestling.models.preset_names()
    corpus: str = "stdlib"  # a name of nestling.data.CORPORA, a path, or a folder of tokens
    tokenizer: str = "bpe"  # "bpe" or "bpe-digits", trained on the corpus, or "bytes"
    vocab_size: int = 4096  # tokens, at most; a small corpus may give fewer
    model: Mapping[str, Any] = field(default_factory=dict)  # overrides of the preset
    train: TrainConfig = field(default_factory=TrainConfig)  # steps, rates, batch, seed ...
    device: str = "cpu"  # a torch device
    optimizer: str = "adamw"  # a name of nestling.optim.build.optimizer_names()


def make_job(values: Mapping[str, Any], **names: Any) -> Job:
    """A Job from ``values``, each a setting of the run or an override of the preset.

    ``names`` are the other fields of a Job. A tokenizer or vocabulary size of None is the default,
    or that of a folder of tokens. Without a ``learning_rate``, the default of ``optimizer`` is
    used. Raises UserError for an unknown name, with the nearest known one.
    """
    corpus = str(names.get("corpus", Job.corpus))
    kind, size = tokenizer_of(corpus, names.pop("tokenizer", None), names.pop("vocab_size", None))
    names |= {"tokenizer": kind, "vocab_size": size}
    settings = {name: value for name, value in values.items() if name in field_names()}
    model = {name: value for name, value in values.items() if name not in settings}
    rate = default_lr(str(names.get("optimizer", "adamw")))
    settings.setdefault("learning_rate", rate)
    job = Job(model=model, train=train_config(settings), **names)
    try:
        configure(job.preset, vocab_size=job.vocab_size, **model)
    except UserError as error:
        # the nearest name may be a setting of the run rather than an option of the model
        match = re.match(
            "unknown option '(.*?)': did you mean '(.*)'|unknown option '(.*)':", str(error)
        )
        if match is None:
            raise
        name, nearest = match[1] or match[3], [match[2]] if match[2] else []
        hint = did_you_mean(name, [*nearest, *field_names()])
        raise UserError(f"unknown option {name!r}: {hint}") from error
    return job


def memory_period(model: HopeForCausalLM) -> int:
    """The longest period (tokens) of the model's memories; 1 if they have none.

    Documents start at multiples of it, so that no period spans two documents.
    """
    periods = [block.memory.alignment for block in model.backbone.each()]
    return math.lcm(*periods, model.config.head_period or 1)


def loader_of(
    documents: Documents, model: HopeForCausalLM, config: TrainConfig, ranks: Ranks = ALONE
) -> Loader:
    """The training batches of a run, with documents aligned to the model's memory period.

    Each process of ``ranks`` reads only the tokens of its own rows.
    """
    loader = Loader(
        documents,
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        seed=config.seed,
        align=memory_period(model),
    )
    loader.read_only(ranks.rows(config.batch_size))
    return loader


def held_out_of(
    documents: Documents, model: HopeForCausalLM, config: TrainConfig
) -> Callable[[], Iterable[Batch]]:
    """A function that returns the held-out batches of a run, from the first on."""
    return lambda: held_out_batches(
        documents,
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        align=memory_period(model),
        max_tokens=config.evaluate_tokens or None,
    )


def identity(job: Job, corpus_hash: str) -> dict[str, Any]:
    """The properties of a run that must be the same to resume it in its folder."""
    return {
        "preset": job.preset,
        "model": dict(job.model),
        "corpus": job.corpus,
        "corpus_sha256": corpus_hash,
        "tokenizer": job.tokenizer,
        "vocab_size": job.vocab_size,
        "seed": job.train.seed,
    }


def claim(directory: Path, job: Job, corpus_hash: str, *, resume: bool) -> None:
    """Claim a folder for a run, or check that it belongs to it. Raises UserError otherwise."""
    own = json.loads(json.dumps(identity(job, corpus_hash)))
    path = directory / JOB
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; give a folder with --out")
    if not path.exists():
        # a process that was killed while writing the file may have left a temporary one
        drafts = set(directory.glob(f".{JOB}.*"))
        if directory.exists() and set(directory.iterdir()) - drafts:
            raise UserError(f"{directory} is not empty and contains no run; choose another folder")
        write_json(path, own)
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another folder") from error
    if not resume:
        raise UserError(
            f"{directory} contains a run; add --resume to continue, or choose another folder"
        )
    # the run may be from before options without effect were refused
    if saved.get("preset") == own["preset"] and saved.get("model") != own["model"]:
        saved["model"] = without_unread(own["preset"], saved.get("model") or {})
    for name, value in own.items():
        if saved.get(name) != value:
            raise UserError(
                f"{directory} contains a run with {name} {saved.get(name)!r}, not {value!r}; "
                "use the same to resume it, or choose another folder"
            )


def run_job(
    job: Job,
    directory: Path | None = None,
    *,
    prepared: Prepared | None = None,
    resume: bool = False,
    quiet: bool = False,
    ranks: Ranks = ALONE,
    track: str = "none",
) -> tuple[HopeForCausalLM, Result]:
    """Run a job. With ``directory``, the trained model is saved there for transformers to load.

    ``prepared`` avoids reading the corpus again if many runs share it. The metrics of the Result
    and ``track`` are those of ``train``. With ``ranks`` every process of the run calls this; the
    first one writes.
    """
    check_tracker(track)
    device = find_device(job.device) if ranks.world == 1 else ranks.device
    ranks.check(job.train.batch_size, job.train.sequence_length)
    with ranks.first_before_others():
        text = prepared or prepare(job.corpus, tokenizer=job.tokenizer, vocab_size=job.vocab_size)
    tokenizer = text.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in IDS}
    overrides = ids | dict(job.model)
    model = create(job.preset, vocab_size=len(tokenizer), seed=job.train.seed, **overrides)
    if ranks.shard == 1:  # a sharded model is moved to the device part by part
        model = model.to(device)
    loader = loader_of(text.train, model, job.train, ranks)
    if directory is not None and ranks.first:
        claim(directory, job, text.corpus.sha256, resume=resume)
    ranks.wait()
    metrics = train(
        model,
        loader,
        job.train,
        directory=directory,
        held_out=held_out_of(text.held_out, model, job.train),
        resume=resume,
        quiet=quiet,
        optimizer=job.optimizer,
        ranks=ranks,
        track=track,
    )
    model = ranks.whole_model(model)
    if directory is not None and ranks.first:
        save_model(model, tokenizer, directory)
    result = Result(
        name="train",
        config=dataclasses.asdict(job) | {"architecture": model.config.to_dict()},
        metrics=metrics,
        seed=job.train.seed,
        corpus=text.corpus.tag,
        provenance=provenance(job.device),
    )
    return model, result
