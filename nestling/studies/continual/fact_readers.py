"""Who reads made-up facts, each with as many settings to choose from."""

from collections.abc import Callable, Sequence

from nestling.continual.learner import ContinualLearner
from nestling.continual.methods import GradientMethod, InContext, Levels, Method, Retrieval
from nestling.continual.methods.elastic import Elastic
from nestling.continual.methods.rehearsal import Rehearsal
from nestling.continual.state import Options
from nestling.models.pretrained import LevelSpec
from nestling.studies.continual.contenders import Contender, Place, Setting, gradients

Build = Callable[[Place, Setting], Method]


def _frozen(place: Place, setting: Setting) -> Method:
    window = place.sizes.window or 0
    return InContext(
        place.base.model, kept=setting["kept"], window=window, segment=place.sizes.segment
    )


def _retrieval(place: Place, setting: Setting) -> Method:
    return Retrieval(
        place.base.model,
        window=place.sizes.window or 0,
        segment=place.sizes.segment,
        passage=setting["passage"],
    )


def _tuned(trained: str) -> Build:
    def build(place: Place, setting: Setting) -> Method:
        return GradientMethod(
            place.base.model,
            lr=setting["lr"],
            sizes=place.sizes,
            trained=trained,
            seed=place.seed,
            fused=True,
        )

    return build


def _elastic(place: Place, setting: Setting) -> Method:
    return GradientMethod(
        place.base.model,
        lr=setting["lr"],
        sizes=place.sizes,
        elastic=Elastic(setting["strength"], gradients(place)),
        seed=place.seed,
        fused=True,
    )


def _rehearsal(place: Place, setting: Setting) -> Method:
    size = place.sizes.segment
    before = [tuple(ids[i : i + size]) for ids in place.known for i in range(0, len(ids), size)]
    return GradientMethod(
        place.base.model,
        lr=setting["lr"],
        sizes=place.sizes,
        rehearsal=Rehearsal(256, seed=place.seed, before=before),
        seed=place.seed,
        fused=True,
    )


def _levels(growth: Sequence[int]) -> Build:
    """Periods of so many segments."""

    def build(place: Place, setting: Setting) -> Method:
        size = place.sizes.segment
        levels = tuple(LevelSpec(period=size * k, lr=setting["lr"]) for k in reversed(growth))
        options = Options(segment=size, window=place.sizes.window)
        return Levels(
            ContinualLearner(place.base.model, place.base.tokenizer, levels, options=options)
        )

    return build


def _rates(*rates: float) -> tuple[Setting, ...]:
    return tuple({"lr": rate} for rate in rates)


RATES = _rates(1e-3, 2e-3)
NONE: tuple[Setting, ...] = ({"kept": 0},)
READERS = {
    "frozen": Contender(title="frozen, nothing read (control)", build=_frozen, settings=NONE),
    "document": Contender(title="frozen, the document in context", build=_frozen, settings=NONE),
    "in-context": Contender(
        title="frozen, last text in context",
        build=_frozen,
        settings=tuple({"kept": kept} for kept in (256, 512)),
    ),
    "retrieval": Contender(
        title="frozen, with retrieval",
        build=_retrieval,
        settings=tuple({"passage": passage} for passage in (64, 128)),
    ),
    "fine-tuning": Contender(title="full fine-tuning", build=_tuned("all"), settings=RATES),
    "lora": Contender(title="LoRA", build=_tuned("lora"), settings=_rates(1e-2, 2e-2)),
    "ewc": Contender(
        title="elastic weight consolidation",
        build=_elastic,
        settings=tuple({"lr": lr, "strength": s} for lr, s in ((1e-3, 0.1), (1e-3, 10.0))),
    ),
    "replay": Contender(title="fine-tuning with rehearsal", build=_rehearsal, settings=RATES),
    "levels-1": Contender(title="1 level", build=_levels([1]), settings=RATES),
    "levels-2": Contender(title="2 levels", build=_levels([1, 4]), settings=RATES),
    "levels-3": Contender(title="3 levels", build=_levels([1, 4, 16]), settings=RATES),
}
