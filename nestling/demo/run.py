"""The demo from start to end: learn, ask in a new process, train, report."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result, provenance
from nestling.demo.hope import Trial, read_text, recall_pairs
from nestling.demo.learning import Learning, learn
from nestling.demo.page import headline, report
from nestling.demo.stages import Stages

PAGE, RESULT = "report.html", "report.json"

Told = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The parts of the demo; None leaves one out."""

    learning: Learning | None = None
    hope: Trial | None = field(default_factory=Trial)

    def __post_init__(self) -> None:
        if self.learning is None and self.hope is None:
            raise UserError("all parts are left out; keep at least one")


def run_demo(
    demo: Demo,
    out: Path,
    *,
    anew: bool = False,
    tell: Told = print,
    quiet: bool = False,
    json: Path | None = None,
) -> Result:
    """Run the demo; writes the page, the Result, the model and its memory to ``out``.

    Results of an earlier call with the same inputs are reused, unless ``anew``, so that an
    interrupted demo resumes. ``json`` is the file for the Result; the default is beside the page.
    If the model is unavailable, the demo says so and shows the rest. An unusable folder or option
    raises UserError.
    """
    begin = time.monotonic()
    stages = Stages(out, anew)
    metrics: dict[str, Any] = {}
    if demo.learning is not None:
        try:
            metrics["learning"] = learn(demo.learning, stages, tell=tell, quiet=quiet)
        except UserError as error:
            if demo.hope is None:
                raise
            tell(f"this part is left out: {error}")
    if demo.hope is not None:
        metrics["hope"] = _hope(demo.hope, stages, tell=tell, quiet=quiet)
    metrics["seconds"] = time.monotonic() - begin
    result = Result(
        name="demo",
        config=dataclasses.asdict(demo),
        metrics=metrics,
        seed=demo.hope.seed if demo.hope else None,
        provenance=provenance(demo.learning.device if demo.learning else "cpu"),
    )
    page = report(out / PAGE, result)
    result.write(json or out / RESULT)
    tell(f"\n{headline(metrics)}\n{metrics['seconds']:,.0f} s in total; report: {page.resolve()}")
    if "learning" in metrics:
        found = metrics["learning"]
        tell(f'ask more: nestling ask {found["model"]} "..." --memory {found["memory"]}')
    return result


def _hope(trial: Trial, stages: Stages, *, tell: Told, quiet: bool) -> dict[str, Any]:
    """The small Hope: pairs, then text."""
    tell("\nTraining a small Hope, whose memories are written as it reads, on pairs to recall.")
    key = trial.key()
    pairs = stages.run("pairs", key, lambda: recall_pairs(trial, quiet=quiet))
    tell(
        f"  recalls {pairs['on']:.0%} of {pairs['pairs']} pairs; with its memory writes off "
        f"{pairs['off']:.0%} (chance {pairs['chance']:.0%})"
    )
    tell("Training another one on text.")
    text = stages.run("text", key, lambda: read_text(trial, quiet=quiet))
    tell(
        f"  held-out perplexity {text['on']['perplexity']:,.0f}; with its memory writes off "
        f"{text['off']['perplexity']:,.0f}"
    )
    return {"pairs": pairs, "text": text}
