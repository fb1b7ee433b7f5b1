"""The main part: ask a pretrained model, let it read and study, and ask it again."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.study.makers import natural
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import Studied
from nestling.continual.study.session import Studies
from nestling.data.lock import locked
from nestling.demo.exam import Exam, Found, examine, examine_elsewhere
from nestling.demo.material import Asked, Material
from nestling.demo.stages import Stages
from nestling.models.pretrained import load_base, save_stacked, studied_level
from nestling.models.pretrained.stacking import upper_layers
from nestling.report.progress import Progress

MODEL, MEMORY = "model", "notes.memory"
OWN_QUESTIONS = 6  # questions made in study that are asked if none were given
SHOWN = 3  # questions shown as they are made
Told = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learning:
    """A model, what it reads, and its plan of study."""

    material: Material
    model: str = "smollm2-135m-instruct"  # as `nestling adapt` takes it
    plan: Plan = dataclasses.field(default_factory=Plan)  # of study
    device: str = "cpu"  # a torch device

    def key(self) -> dict[str, Any]:
        """The options that study depends on."""
        about = {**dataclasses.asdict(self), "documents": self.material.documents}
        del about["material"]
        return about


def learn(job: Learning, stages: Stages, *, tell: Told, quiet: bool = False) -> dict[str, Any]:
    """Ask, study, and ask again in a new process; completed stages are not repeated."""
    out = stages.folder
    folder = _ready(job, stages, tell)
    asked = job.material.asked
    if asked:
        before = _before(job, folder, asked, stages, tell)
    studied = _study(job, folder, stages, tell=tell, quiet=quiet)
    if not asked:
        asked = tuple(Asked(one, (answer,)) for one, answer in studied["own"])
        before = _before(job, folder, asked, stages, tell)
    tell("\nThe same questions in a new process, with the memory file and an empty context:")
    memory = out / MEMORY
    found = stages.run(
        "after",
        _asked_key(job, asked),
        lambda: examine_elsewhere(folder, memory, _exam(job, asked), job.device)._asdict(),
    )
    after = Found(**found)
    _tell_answers(asked, after.asked, tell)
    return {
        "model": str(folder),
        "memory": str(memory),
        "memory_bytes": memory.stat().st_size,
        "documents": [list(one) for one in job.material.documents],
        "asked": [list(one) for one in asked],
        "general": [list(one) for one in job.material.general],
        "before": before._asdict(),
        "after": after._asdict(),
        "study": studied,
    }


def _ready(job: Learning, stages: Stages, tell: Told) -> Path:
    """The folder of a model prepared for study: as given, or adapted in the demo's folder."""
    if (Path(job.model) / "levels.json").exists():
        return Path(job.model)
    folder = stages.folder / MODEL
    key = {"model": job.model}
    if stages.done("model", key) and (folder / "levels.json").exists():
        return folder
    tell(f"preparing {job.model}")

    def make() -> int:
        base = load_base(job.model)
        count = base.model.config.num_hidden_layers
        save_stacked(base, upper_layers([studied_level()], count), "low-rank", folder)
        return sum(weight.numel() for weight in base.model.parameters())

    stages.begin("model", key)  # the folder's contents are about to change
    stages.run("model", key, make)
    return folder


def _exam(job: Learning, asked: tuple[Asked, ...]) -> Exam:
    return Exam(
        tuple(one.question for one in asked),
        tuple(one.question for one in job.material.general),
        tuple(text for _, text in job.material.documents),
        job.material.kept,
    )


def _asked_key(job: Learning, asked: tuple[Asked, ...]) -> dict[str, Any]:
    return {**job.key(), "exam": _exam(job, asked)}


def _before(
    job: Learning, folder: Path, asked: tuple[Asked, ...], stages: Stages, tell: Told
) -> Found:
    """The answers and losses of the model before it has learned anything."""
    tell(f"\n{_words(job)} Questions to {job.model} before it has read any of it:")
    found = stages.run(
        "before",
        _asked_key(job, asked),
        lambda: examine(open_learner(folder, device=job.device), _exam(job, asked))._asdict(),
    )
    before = Found(**found)
    _tell_answers(asked, before.asked, tell)
    return before


def _words(job: Learning) -> str:
    names = " and ".join(name for name, _ in job.material.documents)
    count = sum(len(text.split()) for _, text in job.material.documents)
    return f"A text of {count:,} words: {names}."


def _study(
    job: Learning, folder: Path, stages: Stages, *, tell: Told, quiet: bool
) -> dict[str, Any]:
    """Read and study, with progress; an interrupted study resumes where it stopped."""
    memory, key = stages.folder / MEMORY, job.key()
    tell("\nIt reads, makes up questions about what it has read, and learns to answer them.")
    if stages.done("study", key) and memory.exists():
        tell("kept from the last run; use --anew to repeat it")
        return stages.run("study", key, dict)
    if not stages.same("study", key):
        memory.unlink(missing_ok=True)
        stages.begin("study", key)

    def work() -> dict[str, Any]:
        with locked(memory, "nestling demo"):
            learner = open_learner(folder, memory, device=job.device)
            learner.studies = True
            for name, text in job.material.documents:
                learner.read(text, name=name, again=False)
            studies = Studies(learner=learner, memory=memory, plan=job.plan)
            with _shown(studies, quiet) as spent:
                studies.run()
            return _what_was_studied(job, learner, spent)

    found = stages.run("study", key, work)
    tell(f"{found['writes']:,} writes in {found['seconds']:,.0f} seconds of study")
    return found


class _Spent:
    """Writes and seconds that the study of each document has taken so far."""

    def __init__(self):
        self.writes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}


@contextlib.contextmanager
def _shown(studies: Studies, quiet: bool) -> Generator[_Spent]:
    """Show the progress of study, the time left, and some of the questions it makes."""
    spent = _Spent()
    with Progress("writes", quiet=quiet) as progress:

        def show(learner: ContinualLearner, now: Any) -> None:
            state = learner.state.open
            spent.seconds[now.name] = state.seconds if state else 0.0
            if now.what != "studying":
                progress.note(f"{now.name}: {now.what}")
                return
            if now.name not in spent.writes:
                progress.begin(now.name, now.done - 1)
            spent.writes[now.name] = now.done
            progress.show(now.done, now.steps, f"loss {now.loss:.2f}", now.name)

        def made(learner: ContinualLearner, now: Any) -> None:
            state = learner.state.open
            for one in [q for q in (state.questions if state else ()) if natural(q)][:SHOWN]:
                progress.note(f"  it asks itself: {one.question} {one.answer or one.reply}")

        studies.show, studies.made = show, made
        yield spent


def _what_was_studied(job: Learning, learner: ContinualLearner, spent: _Spent) -> dict[str, Any]:
    """Figures of each document, and some of the questions that were made."""
    done: tuple[Studied, ...] = learner.state.studied
    every = [q for one in done for q in one.questions if q.answer and natural(q)]
    # held-out ones first
    chosen = sorted(every, key=lambda q: not q.held)[:OWN_QUESTIONS]
    return {
        "figures": [{"name": one.name, **one.figures} for one in done],
        "own": [[q.question, q.answer] for q in chosen],
        "seconds": sum(spent.seconds.values()),
        "writes": sum(spent.writes.values()),
        "rank": job.plan.rank,
    }


def _tell_answers(asked: tuple[Asked, ...], said: list[str], tell: Told) -> None:
    """Print each question, its answer and whether it is right."""
    for one, answer in zip(asked, said, strict=True):
        mark = "" if not one.answers else "right: " if one.right(answer) else "wrong: "
        tell(f"  {one.question}\n    {mark}{' '.join(answer.split())}")
