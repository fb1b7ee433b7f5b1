"""The continual-learning methods under comparison, each with the same number of settings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from nestling.continual.learner import ContinualLearner
from nestling.continual.methods import GradientMethod, InContext, Levels, Method, Retrieval
from nestling.continual.methods.elastic import Elastic
from nestling.continual.methods.rehearsal import Rehearsal
from nestling.continual.state import Options, Stream
from nestling.continual.stream import Cut, read_segment
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import parse_levels
from nestling_lab.studies.continual.base import Ready

Setting = dict[str, Any]
NONE = "none"  # asked in the current state, without a gate


class Place(NamedTuple):
    """The starting point of a method."""

    base: Ready
    known: Sequence[Sequence[int]]  # documents from the base model's training text
    sizes: Cut  # segment (one update of the fastest weights) and window, tokens
    seed: int
    fused: bool = False  # whether to use the fused Adam kernel, for a large model


Build = Callable[[Place, Setting], Method]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A continual-learning method, and the settings it is tuned over."""

    title: str
    build: Build
    settings: tuple[Setting, ...]
    gates: tuple[str, ...] = (NONE,)  # ways to ask it, all compared after the same reading


def rates(*values: float) -> tuple[Setting, ...]:
    """Settings that differ in their learning rate."""
    return tuple({"lr": value} for value in values)


def levels(
    periods: Sequence[int],
    variant: str = "whole",
    trust: float | None = None,
    averages: tuple[int, ...] | None = None,
    finishing: bool = False,
) -> Build:
    """A learner with levels of these periods and averages over these numbers of tokens.

    With ``finishing`` all levels are also written at the end of a document.
    """

    def build(place: Place, setting: Setting) -> Method:
        text = ",".join(f"{period}:{setting['lr']}" for period in periods)
        wanted = tuple(replace(level, trust=trust) for level in parse_levels(text))
        options = Options(segment=place.sizes.segment, window=place.sizes.window, averages=averages)
        return Levels(
            ContinualLearner(
                place.base.model, place.base.tokenizer, wanted, variant=variant, options=options
            ),
            finishing=finishing,
        )

    return build


def tuned(trained: str, averages: Sequence[int] = ()) -> Build:
    """Adam on all weights, or on low-rank adapters."""

    def build(place: Place, setting: Setting) -> Method:
        return GradientMethod(
            place.base.model,
            lr=setting["lr"],
            sizes=place.sizes,
            trained=trained,
            averages=averages,
            seed=place.seed,
            fused=place.fused,
        )

    return build


def elastic(place: Place, setting: Setting) -> Method:
    """Fine-tuning with elastic weight consolidation."""
    return GradientMethod(
        place.base.model,
        lr=setting["lr"],
        sizes=place.sizes,
        elastic=Elastic(setting["strength"], gradients(place)),
        seed=place.seed,
        fused=place.fused,
    )


def gradients(place: Place) -> Iterator[list[torch.Tensor]]:
    """Yield gradients of the base model on segments of its training text.

    They are computed one document at a time, because a gradient is as large as the model.
    """
    model, sizes = place.base.model, place.sizes
    reader = FunctionalModel(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for ids in place.known:
        part = tuple(ids[: sizes.segment])
        pieces = list(read_segment(reader, {}, Stream(), part, (0,), sizes, model.device))
        loss = torch.cat([piece.losses for piece in pieces]).mean()
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        yield [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)
        ]


def rehearsal(place: Place, setting: Setting) -> Method:
    """Fine-tuning with one stored segment per new segment."""
    size = place.sizes.segment
    before = [tuple(ids[i : i + size]) for ids in place.known for i in range(0, len(ids), size)]
    return GradientMethod(
        place.base.model,
        lr=setting["lr"],
        sizes=place.sizes,
        rehearsal=Rehearsal(256, seed=place.seed, before=before),
        seed=place.seed,
        fused=place.fused,
    )


def frozen(place: Place, setting: Setting) -> Method:
    """The frozen model, with the last text it read in its context."""
    window = place.sizes.window or 0
    return InContext(
        place.base.model, kept=setting["kept"], window=window, segment=place.sizes.segment
    )


def retrieval(place: Place, setting: Setting) -> Method:
    """The frozen model, with the best-matching passages in its context."""
    window = place.sizes.window or 0
    return Retrieval(
        place.base.model,
        window=window,
        segment=place.sizes.segment,
        passage=setting["passage"],
        found=setting.get("found", 1),
    )


# six settings each; the last two were added because most methods were best at the smallest of the
# others. The frozen model has nothing to tune. Levels have no trust bound here, as in all methods
RATES = rates(3e-4, 7e-4, 1.5e-3, 3e-3, 1.5e-4, 7e-5)
GATED = (NONE, "base")
LEVELS = (NONE, "base", "levels")
CONTENDERS = {
    "frozen": Contender(title="frozen", build=frozen, settings=({"kept": 0},)),
    "in-context": Contender(
        title="frozen, last text in context",
        build=frozen,
        settings=tuple({"kept": kept} for kept in (32, 64, 128, 256, 16, 8)),
    ),
    "fine-tuning": Contender(
        title="full fine-tuning", build=tuned("all"), settings=RATES, gates=GATED
    ),
    "lora": Contender(
        title="LoRA",
        build=tuned("lora"),
        settings=rates(1e-3, 2e-3, 5e-3, 1e-2, 5e-4, 2.5e-4),
        gates=GATED,
    ),
    "ewc": Contender(
        title="elastic weight consolidation",
        build=elastic,
        settings=tuple(
            {"lr": lr, "strength": strength}
            for lr, strength in (
                (7e-4, 0.1),
                (1.5e-3, 0.1),
                (7e-4, 10.0),
                (1.5e-3, 10.0),
                (3e-4, 0.1),
                (1.5e-4, 0.1),
            )
        ),
        gates=GATED,
    ),
    "replay": Contender(
        title="fine-tuning with rehearsal", build=rehearsal, settings=RATES, gates=GATED
    ),
    "retrieval": Contender(
        title="frozen, with retrieval",
        build=retrieval,
        settings=tuple(
            {"passage": passage, "found": found}
            for passage, found in ((16, 1), (32, 1), (32, 2), (64, 1), (8, 1), (4, 1))
        ),
    ),
    "levels-1": Contender(title="1 level", build=levels([64]), settings=RATES, gates=LEVELS[:2]),
    "levels-2": Contender(title="2 levels", build=levels([64, 512]), settings=RATES, gates=LEVELS),
    "levels-3": Contender(
        title="3 levels", build=levels([64, 512, 4096]), settings=RATES, gates=LEVELS
    ),
    "levels-4": Contender(
        title="4 levels", build=levels([64, 256, 1024, 4096]), settings=RATES, gates=LEVELS
    ),
    "levels-2-mlp": Contender(
        title="2 levels of MLPs alone",
        build=levels([64, 512], "partition"),
        settings=RATES,
        gates=LEVELS,
    ),
    "averages": Contender(
        title="full fine-tuning with averages",
        build=tuned("all", (128, 32, 8)),
        settings=RATES,
        gates=LEVELS,
    ),
    "levels-1-averages": Contender(
        title="1 level with averages",
        build=levels([64], averages=(512, 2048, 8192)),
        settings=RATES,
        gates=LEVELS,
    ),
}
# for a large pretrained model, which can read only few tokens: two settings each, the first half
# way between those of the small model and those usual for its size
SLOW_RATES = rates(3e-5, 1e-4)
LARGE = {
    "large-frozen": CONTENDERS["frozen"],
    "large-fine-tuning": replace(CONTENDERS["fine-tuning"], settings=SLOW_RATES),
    "large-lora": replace(CONTENDERS["lora"], settings=rates(3e-4, 1e-3)),
    "large-levels-2": replace(CONTENDERS["levels-2"], settings=SLOW_RATES),
    "large-levels-2-mlp": replace(CONTENDERS["levels-2-mlp"], settings=SLOW_RATES),
}
EVERY = CONTENDERS | LARGE
STORES_TEXT = ("in-context", "retrieval", "replay")
