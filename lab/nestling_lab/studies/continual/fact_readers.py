"""The readers of made-up facts, each with the same number of settings."""

from collections.abc import Sequence

from nestling.continual.methods import Method
from nestling.models.pretrained import LevelSpec
from nestling_lab.studies.continual.contenders import (
    Build,
    Contender,
    Place,
    Setting,
    elastic,
    frozen,
    levels,
    rates,
    rehearsal,
    retrieval,
    tuned,
)


def every(
    counts: Sequence[int],
    variant: str = "whole",
    trust: float | None = None,
    finishing: bool = False,
) -> Build:
    """``levels`` with periods given in segments, fast to slow."""

    def build(place: Place, setting: Setting) -> Method:
        periods = [place.sizes.segment * count for count in counts]
        return levels(periods, variant, trust, finishing=finishing)(place, setting)

    return build


def bound(counts: Sequence[int]) -> Build:
    """Levels of MLPs only, each with a trust bound."""
    return every(counts, "partition", LevelSpec.trust)


# three settings for every reader that has any; the third was added beyond the better of two
RATES = rates(1e-3, 2e-3, 3e-4)
FASTER = rates(1e-3, 2e-3, 4e-3)
NONE: tuple[Setting, ...] = ({"kept": 0},)
READERS = {
    "frozen": Contender(title="frozen, nothing read (control)", build=frozen, settings=NONE),
    "document": Contender(title="frozen, the document in context", build=frozen, settings=NONE),
    "in-context": Contender(
        title="frozen, last text in context",
        build=frozen,
        settings=tuple({"kept": kept} for kept in (256, 512, 128)),
    ),
    "retrieval": Contender(
        title="frozen, with retrieval",
        build=retrieval,
        settings=tuple({"passage": passage} for passage in (64, 128, 256)),
    ),
    "fine-tuning": Contender(title="full fine-tuning", build=tuned("all"), settings=RATES),
    "lora": Contender(title="LoRA", build=tuned("lora"), settings=rates(1e-2, 2e-2, 3e-3)),
    "ewc": Contender(
        title="elastic weight consolidation",
        build=elastic,
        settings=tuple(
            {"lr": lr, "strength": s} for lr, s in ((1e-3, 0.1), (1e-3, 10.0), (3e-4, 0.1))
        ),
    ),
    "replay": Contender(title="fine-tuning with rehearsal", build=rehearsal, settings=RATES),
    "levels-1": Contender(title="1 level", build=bound([1]), settings=FASTER),
    "levels-2": Contender(title="2 levels", build=bound([1, 4]), settings=FASTER),
    "levels-3": Contender(title="3 levels", build=bound([1, 4, 16]), settings=FASTER),
    "levels-1-whole": Contender(
        title="1 level of whole layers, written at the end too",
        build=every([1], finishing=True),
        settings=RATES,
    ),
    "levels-2-whole": Contender(
        title="2 levels of whole layers, written at the end too",
        build=every([1, 4], finishing=True),
        settings=RATES,
    ),
}
