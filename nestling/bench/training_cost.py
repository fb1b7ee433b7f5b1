"""What a training step costs: every preset side by side, in one run."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.bench.memory import peak_of
from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.data import Batch
from nestling.models import HopeForCausalLM, create
from nestling.train import Run, TrainConfig

REFERENCE = "transformer"  # the family that all others are compared with
GATE = 1e-4  # relative error of streaming above which nothing is measured


class RandomText:
    """Batches of tokens drawn at random: speed does not depend on what is read."""

    def __init__(self, vocab_size: int, batch_size: int, length: int):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocab_size, (batch_size, length + 1), generator=generator)
        reset = torch.zeros(batch_size, length, dtype=torch.bool)
        reset[:, 0] = True
        self.batch = Batch(ids[:, :-1], ids[:, 1:], reset, torch.ones_like(reset))

    def __iter__(self) -> "RandomText":
        """Itself, without end."""
        return self

    def __next__(self) -> Batch:
        """The same batch again."""
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        """No place to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No place to go to."""


@dataclass
class Contestant:
    """A model under the clock, with the seconds of each of its rounds."""

    name: str
    run: Run
    seconds: list[float]


def streaming_error(model: HopeForCausalLM, length: int = 40) -> float:
    """Relative error of logits read in two pieces against those read at once."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    ids = ids.to(model.device)
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, : length // 3], use_cache=True)
        rest = model(ids[:, length // 3 :], past_key_values=first.past_key_values, use_cache=True)
    pieces = torch.cat((first.logits, rest.logits), dim=1)
    return float((pieces - whole).norm() / whole.norm())


def state_bytes(model: HopeForCausalLM, length: int) -> int:
    """Bytes of what one row remembers after ``length`` tokens."""
    with torch.no_grad():
        ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
        cache = model(ids, use_cache=True).past_key_values
    total = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    map_state(add, cache.states)
    return total


def contestant(name: str, *, vocab_size: int, batch_size: int, length: int, device: str):
    """A preset and its optimizer, if streaming equals the full forward; else UserError."""
    model = create(name, vocab_size=vocab_size).to(device)
    error = streaming_error(model)
    if not error < GATE:
        raise UserError(
            f"{name}: reading in two pieces differs from reading at once by {error:.1e}; "
            "speed is not measured of what is wrong: mend it first"
        )
    config = TrainConfig(batch_size=batch_size, sequence_length=length, carry=False)
    return Contestant(name, Run(model, RandomText(vocab_size, batch_size, length), config), [])


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def training(
    presets: Sequence[str],
    *,
    batch_size: int = 4,
    length: int = 256,
    rounds: int = 5,
    vocab_size: int = 4096,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a training step (forward, backward, AdamW) of each preset on the same tokens.

    The presets take turns, one step each a round, after two steps that are not counted; so the
    ratios are of figures taken under the same load. Gives for each preset ``tokens_per_second``
    (median over the rounds, with the slowest and the fastest), ``over_reference`` (median over
    rounds of its speed over that of the first preset), ``peak_mib`` (the most that the tensors of
    one step take beside weights and optimizer), ``num_parameters``, ``num_non_embedding`` and
    ``state_bytes`` (of one row after ``length`` tokens). Raises UserError for a preset whose
    streaming does not equal its full forward.
    """
    if min(batch_size, length, rounds) < 1 or not presets:
        raise UserError("give at least one preset, row, token and round")
    shape = {"vocab_size": vocab_size, "batch_size": batch_size, "length": length}
    entrants, peaks = [], {}
    for name in presets:
        entrant = contestant(name, **shape, device=device)
        entrant.run.step()
        peaks[name] = peak_of(entrant.run.step, device)
        entrants.append(entrant)
        if not quiet:
            print(f"{name}: ready, {peaks[name] / 2**20:,.0f} MiB a step", file=sys.stderr)
    for number in range(rounds):
        for entrant in entrants:
            wait(device)
            begin = time.perf_counter()
            entrant.run.step()
            wait(device)
            entrant.seconds.append(time.perf_counter() - begin)
        if not quiet:
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    reference = entrants[0]
    rows = {
        entrant.name: figures(entrant, reference, batch_size * length)
        | {"peak_mib": peaks[entrant.name] / 2**20, **sizes(entrant.run.model, length)}
        for entrant in entrants
    }
    return {"reference": reference.name, "rounds": rounds, "presets": rows}


def figures(entrant: Contestant, reference: Contestant, tokens: int) -> dict[str, Any]:
    """Speed of one preset, alone and over the reference's in the same rounds."""
    speeds = sorted(tokens / seconds for seconds in entrant.seconds)
    ratios = [
        theirs / ours for ours, theirs in zip(entrant.seconds, reference.seconds, strict=True)
    ]
    return {
        "tokens_per_second": statistics.median(speeds),
        "slowest": speeds[0],
        "fastest": speeds[-1],
        "over_reference": statistics.median(ratios),
        "first_loss": entrant.run.totals.first_loss,
    }


def sizes(model: HopeForCausalLM, length: int) -> dict[str, int]:
    """Parameters, and bytes of state of one row."""
    return {
        "num_parameters": model.num_parameters(),
        "num_non_embedding": sum(p.numel() for p in model.backbone.blocks.parameters()),
        "state_bytes": state_bytes(model, length),
    }


def resolve(wanted: str, size: str) -> list[str]:
    """Names of presets: "all", or families or presets between commas; the reference is first.

    >>> resolve("hope", "tiny"), resolve("transformer-small,hope-small", "tiny")
    (['transformer-tiny', 'hope-tiny'], ['transformer-small', 'hope-small'])
    """
    from nestling.models.presets import FAMILIES, PRESETS, SIZES, preset

    if size not in SIZES:
        raise UserError(f"no size {size!r}; choose one of {', '.join(SIZES)}")
    parts = list(FAMILIES) if wanted == "all" else [p.strip() for p in wanted.split(",")]
    names = [part if part in PRESETS else f"{part}-{size}" for part in parts]
    for name in names:
        preset(name)
    if not any(name.startswith(f"{REFERENCE}-") for name in names):
        names.insert(0, f"{REFERENCE}-{size}")
    return sorted(dict.fromkeys(names), key=lambda name: not name.startswith(f"{REFERENCE}-"))
