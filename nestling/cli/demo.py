"""nestling demo: a pretrained model learns a text, and a small Hope remembers one."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Ask a pretrained model about a text, let it study the text, and ask again in a new process;
    then train a small Hope for a minute. After Ctrl-C the same command resumes."""

    texts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts to learn: files, or ferry and orchard, which are included (default: ferry)."""
    questions: Path | None = None
    """File with questions about your text, one per line, the answers after tabs; by default the
    questions that study generates are asked."""
    model: str = "smollm2-135m-instruct"
    """The model, as for `nestling adapt`."""
    study: Literal["light", "full"] = "full"
    """How thoroughly a text is studied."""
    budget: int | None = None
    """Largest number of study steps for each text."""
    part: Literal["all", "learn", "hope"] = "all"
    """What to show: the model that learns, the small Hope, or both."""
    out: Path = Path("demo")
    """Folder for the report, its figures, the model and its memory."""
    anew: bool = False
    """Start over; by default results already in the folder are reused."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the results, as JSON; by default beside the report."""
    quiet: bool = False
    """Show no progress."""

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
