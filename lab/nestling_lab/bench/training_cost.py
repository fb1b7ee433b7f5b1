"""The cost of a training step: every preset and peer, measured in one run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.data import Batch
from nestling.models import HopeForCausalLM, create
from nestling.train import Run, TrainConfig
from nestling_lab.bench import peers
from nestling_lab.bench.gate import hold, streaming_error
from nestling_lab.bench.memory import peak_of
from nestling_lab.bench.turns import Contestant, over, say, spread, take_turns

PEER = "peer:"  # prefix of the name of a third-party model
REFERENCE = "transformer"  # the family that all others are compared with


class Shape(NamedTuple):
    """The shape of a step: ``rows`` of ``length`` tokens."""

    rows: int
    length: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Parse ROWSxLENGTH. Raises UserError for anything else.

        >>> Shape.parse("4x512"), str(Shape(1, 4096))
        (Shape(rows=4, length=512), '1x4096')
        """
        parts = text.split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise UserError(f"{text!r} is not a shape; write ROWSxLENGTH in tokens, like 4x512")
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}"


class Head(NamedTuple):
    """A head that is a level: its period in tokens, and its slots."""

    period: int
    slots: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Parse PERIOD or PERIOD:SLOTS. Raises UserError for anything else.

        >>> Head.parse("32"), Head.parse("32:1024")
        (Head(period=32, slots=None), Head(period=32, slots=1024))
        """
        parts = text.split(":")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UserError(f"{text!r} is not a head; write PERIOD or PERIOD:SLOTS, like 32:1024")
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return "head " + ":".join(str(size) for size in self if size is not None)


class RandomText:
    """Batches of random tokens; the speed does not depend on the text."""

    def __init__(self, vocab_size: int, batch_size: int, length: int):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocab_size, (batch_size, length + 1), generator=generator)
        reset = torch.zeros(batch_size, length, dtype=torch.bool)
        reset[:, 0] = True
        self.batch = Batch(ids[:, :-1], ids[:, 1:], reset, torch.ones_like(reset))

    def __iter__(self) -> "RandomText":
        """The loader itself, which is endless."""
        return self

    def __next__(self) -> Batch:
        """The same batch again."""
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: there is no position to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no position to restore."""


def state_bytes(model: HopeForCausalLM, length: int) -> int:
    """The bytes of the state of one row after ``length`` tokens."""
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


@dataclass(kw_only=True)
class Entrant:
    """A model whose training step is timed at one shape, with figures known beforehand."""

    shape: Shape
    contestant: Contestant
    about: dict[str, Any]


def entrant(
    name: str,
    shape: Shape,
    *,
    head: Head | None = None,
    vocab_size: int,
    device: str,
    peak: bool,
    precision: Literal["float32", "bfloat16"],
    quiet: bool,
) -> Entrant:
    """A preset and its optimizer after a first step. Raises UserError if its gate fails."""
    options: dict[str, Any] = (
        {} if head is None else {"head_period": head.period, "head_slots": head.slots}
    )
    model = create(name, vocab_size=vocab_size, **options).to(device)
    name = name if head is None else f"{name}, {head}"
    gate = hold(name, {"reading in two pieces and at once": streaming_error(model)})
    config = TrainConfig(
        batch_size=shape.rows, sequence_length=shape.length, carry=False, precision=precision
    )
    run = Run(model, RandomText(vocab_size, *shape), config)
    about: dict[str, Any] = {"gate": gate, **sizes(model, shape.length)}
    run.step()
    run.optimizer.zero_grad()  # so that the step frees nothing from before it
    about["peak_mib"] = peak_of(run.step, device) / 2**20 if peak else None
    about["first_loss"] = run.totals.first_loss
    say(f"{name} at {shape}: ready", quiet)
    return Entrant(shape=shape, contestant=Contestant(name=name, work=run.step), about=about)


def peer_entrant(
    name: str,
    shape: Shape,
    *,
    vocab_size: int,
    device: str,
    peak: bool,
    precision: Literal["float32", "bfloat16"],
    quiet: bool,
) -> Entrant:
    """A third-party model after a first step. Raises UserError unless its first loss is ln V.

    That gate is wide, because initialisations differ: it only rejects models with a non-finite loss
    or that see the answers.
    """
    batch = RandomText(vocab_size, *shape).batch
    peer = peers.Training(name, batch, vocab_size=vocab_size, device=device, dtype=precision)
    peer.step()
    peer.optimizer.zero_grad()
    guess = math.log(vocab_size)
    gate = hold(
        PEER + name, {"first loss and ln V": abs(peer.first_loss - guess) / guess}, bound=0.2
    )
    about: dict[str, Any] = {
        "gate": gate,
        "first_loss": peer.first_loss,
        "peak_mib": peak_of(peer.step, device) / 2**20 if peak else None,
        "num_parameters": sum(p.numel() for p in peer.model.parameters()),
        "num_non_embedding": None,
        "state_bytes": None,
    }
    say(f"{PEER}{name} at {shape}: ready", quiet)
    return Entrant(
        shape=shape, contestant=Contestant(name=PEER + name, work=peer.step), about=about
    )


def training(
    presets: Sequence[str],
    shapes: Sequence[Shape] = (Shape(4, 256),),
    *,
    heads: Sequence[Head] = (),
    others: Sequence[str] = (),
    rounds: int = 5,
    vocab_size: int = 4096,
    device: str = "cpu",
    peak: bool = True,
    precision: Literal["float32", "bfloat16"] = "float32",
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a training step (forward, backward, AdamW) of each preset on the same tokens.

    All presets at all shapes take turns, one step per round, after uncounted warm-up steps, so
    ratios are of figures taken under the same load. For each shape and preset:
    ``tokens_per_second`` (median over the rounds, with the slowest and the fastest),
    ``over_reference`` (median over rounds of the speed relative to the first preset at this shape,
    with ``over_lowest`` and ``over_highest``), ``peak_mib`` (of the tensors of one step, without
    weights and optimizer state), ``num_parameters``, ``num_non_embedding`` and ``state_bytes`` (of
    one row after ``length`` tokens). ``time_per_token`` of each preset is that of the longest shape
    relative to the shortest with the same number of rows. Each preset is also measured with each of
    ``heads``. ``others`` are names of peers; ``over_peer`` is our speed relative to theirs, by our
    family with the same equations. Raises UserError for a preset whose streaming differs from its
    full forward.
    """
    if rounds < 1 or not presets or not shapes:
        raise UserError(
            "presets, shapes and rounds must not be empty or 0; give at least 1 of each"
        )
    options: dict[str, Any] = {"vocab_size": vocab_size, "device": device, "peak": peak}
    options["precision"] = precision
    options["quiet"] = quiet
    entrants = []
    for shape in shapes:
        for name in presets:
            entrants += [entrant(name, shape, head=head, **options) for head in (None, *heads)]
        entrants += [peer_entrant(name, shape, **options) for name in others]
    contestants = [entrant.contestant for entrant in entrants]
    take_turns(contestants, rounds=rounds, device=device, quiet=quiet)
    found = {}
    for shape in shapes:
        here = [entrant for entrant in entrants if entrant.shape == shape]
        found[str(shape)] = {
            "presets": {e.contestant.name: figures(e, here[0]) for e in here},
            "over_peer": over_peers(here),
        }
    return {
        "reference": presets[0],
        "rounds": rounds,
        "shapes": found,
        "presets": found[str(shapes[0])]["presets"],
        "time_per_token": time_per_token(entrants),
    }


def figures(entrant: Entrant, reference: Entrant) -> dict[str, Any]:
    """The speed of one preset, also relative to the reference in the same rounds."""
    tokens = entrant.shape.rows * entrant.shape.length
    speed = spread([tokens / seconds for seconds in entrant.contestant.seconds])
    ratio = over(entrant.contestant, reference.contestant)
    return {
        "tokens_per_second": speed.median,
        "slowest": speed.lowest,
        "fastest": speed.highest,
        "over_reference": ratio.median,
        "over_lowest": ratio.lowest,
        "over_highest": ratio.highest,
        **entrant.about,
    }


def over_peers(entrants: Sequence[Entrant]) -> dict[str, float]:
    """Our speed relative to each peer with the same equations, at one shape."""
    own = {entrant.contestant.name: entrant.contestant for entrant in entrants}
    found = {}
    for name, peer in peers.PEERS.items():
        ours, theirs = own.get(f"{peer.beside}-tiny"), own.get(PEER + name)
        if ours is not None and theirs is not None:
            found[name] = over(ours, theirs).median
    return found


def time_per_token(entrants: Sequence[Entrant]) -> dict[str, dict[str, float]]:
    """By name: time per token at the longest shape relative to the shortest with as many rows."""
    found = {}
    for name in dict.fromkeys(entrant.contestant.name for entrant in entrants):
        own = [entrant for entrant in entrants if entrant.contestant.name == name]
        longest = max(own, key=lambda entrant: entrant.shape.length)
        same = [entrant for entrant in own if entrant.shape.rows == longest.shape.rows]
        shortest = min(same, key=lambda entrant: entrant.shape.length)
        if shortest is not longest:
            growth = longest.shape.length / shortest.shape.length
            ratio = over(shortest.contestant, longest.contestant).median / growth
            found[name] = {f"{longest.shape} over {shortest.shape}": ratio}
    return found


def sizes(model: HopeForCausalLM, length: int) -> dict[str, int]:
    """The number of parameters, and the bytes of the state of one row."""
    return {
        "num_parameters": model.num_parameters(),
        "num_non_embedding": sum(p.numel() for p in model.backbone.blocks.parameters()),
        "state_bytes": state_bytes(model, length),
    }


def resolve(wanted: str, size: str) -> list[str]:
    """The presets of "all", or of comma-separated families and presets; the reference is first.

    >>> resolve("hope", "tiny"), resolve("transformer-small,hope-small", "tiny")
    (['transformer-tiny', 'hope-tiny'], ['transformer-small', 'hope-small'])
    """
    from nestling.models.presets import FAMILIES, PRESETS, SIZES, preset

    if size not in SIZES:
        raise UserError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}")
    parts = list(FAMILIES) if wanted == "all" else [p.strip() for p in wanted.split(",")]
    names = [part if part in PRESETS else f"{part}-{size}" for part in parts]
    for name in names:
        preset(name)
    if not any(name.startswith(f"{REFERENCE}-") for name in names):
        names.insert(0, f"{REFERENCE}-{size}")
    return sorted(dict.fromkeys(names), key=lambda name: not name.startswith(f"{REFERENCE}-"))
