"""nestling demo: a pretrained model learns a text, a small Hope remembers, and a page says so."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Ask a pretrained model about a text, let it study that, and ask again in a new process; then
    train a small Hope for a minute. Ctrl-C ends it, and the same command goes on."""

    texts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to learn: files, or ferry and orchard, which come with the package (default: ferry)."""
    questions: Path | None = None
    """File of questions about your own text, one a line, right answers after tabs; without it those
    are asked that study makes."""
    model: str = "smollm2-135m-instruct"
    """What learns, as `nestling adapt` takes it."""
    study: Literal["light", "full"] = "full"
    """How thoroughly a text is studied."""
    budget: int | None = None
    """Most writes of study for each text."""
    part: Literal["all", "learn", "hope"] = "all"
    """What is shown: the model that learns, the small Hope, or both."""
    out: Path = Path("demo")
    """Folder for the report, its figures, the model and its memory."""
    anew: bool = False
    """Do everything again; otherwise what the folder holds of the same is kept."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the figures, a Result; by default beside the report."""
    quiet: bool = False
    """No progress on the terminal."""

    def run(self) -> None:
        """Run the demonstration and say where the report is."""
        from nestling.continual.study.plan import PLANS
        from nestling.demo import Demo, run_demo
        from nestling.demo.hope import Trial
        from nestling.demo.learning import Learning
        from nestling.demo.material import material

        learning = Learning(
            material=material(self.texts, self.questions),
            model=self.model,
            plan=dataclasses.replace(PLANS[self.study], budget=self.budget),
            device=self.device,
        )
        demo = Demo(
            learning=None if self.part == "hope" else learning,
            hope=None if self.part == "learn" else Trial(device=self.device),
        )
        # flushed, so that it stays in order with the progress on the other stream
        tell = functools.partial(print, flush=True)
        run_demo(demo, self.out, anew=self.anew, tell=tell, quiet=self.quiet, json=self.json)
