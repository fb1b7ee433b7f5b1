"""nestling learn: learn from texts and keep what was learned in a memory file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Learn from texts. The model itself does not change: what was learned is in the memory
    file."""

    model: tyro.conf.Positional[str]
    """Adapted folder, folder of `nestling train`, or any model of a known family with --levels."""
    texts: tyro.conf.Positional[tuple[str, ...]]
    """Files and folders of text, Markdown, HTML, JSONL or Parquet (FILE#FIELD: the field of its
    records, otherwise "text"); - reads the input; anything with a space is itself the text."""
    memory: Path
    """Memory file; created if there is none, otherwise continued."""
    levels: str | None = None
    """Levels as period[:lr[:rule[:share]]],... instead of the model's own."""
    again: bool = False
    """Read texts again that are already in the memory file; otherwise they are skipped."""
    passes: int = 1
    """How often to read all texts."""
    finish: bool = False
    """At the end, also write the levels whose period is not yet full."""
    surprise: float | None = None
    """Learn only from tokens predicted with at least this loss (nats)."""
    study: Literal["none", "light", "full"] | None = None
    """Generate questions about each text and learn to answer them; full by default for a model that
    was adapted for it (low-rank), otherwise none."""
    about: str = ""
    """What the texts are about, if they do not say it, such as a notice: a phrase, or the name of a
    document that was learned, whose subject it then has."""
    budget: int | None = None
    """Largest number of study steps for each text."""
    rank: int | None = None
    """Rank of the change that study makes for a text."""
    show_questions: bool = False
    """Print the questions that study generates."""
    questions: Path | None = None
    """File with your own questions, one per line (the answer after a tab), asked before and
    after."""
    keep_text: bool = False
    """Keep the sentences of a text in the memory file, to replay them with later texts."""
    averages: str | None = None
    """Keep running averages of the levels over this many tokens, such as 2048,8192; `ask --gate
    levels` mixes them in."""
    segment: int | None = None
    """Tokens read with one set of weights; a divisor of every period."""
    window: int | None = None
    """Longest context of a token within its document, in tokens."""
    save_every: int | None = None
    """Tokens between two writes of the file; by default the fastest period."""
    probe: tuple[str, ...] = ()
    """Texts whose loss is measured before and after, given like those to learn; nothing is learned
    from them."""
    max_forgetting: float | None = None
    """Undo a document if the probe's loss has risen by more than this fraction after it."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the results, as JSON."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Learn, save and print a summary."""
        from nestling.continual.average import parse_spans
        from nestling.continual.guard import Guard
        from nestling.continual.opening import open_learner, read_documents
        from nestling.continual.options import check_options
        from nestling.continual.session import Session
        from nestling.continual.state import Options
        from nestling.core.error import UserError
        from nestling.data.lock import locked

        if self.passes < 1:
            raise UserError(f"passes is {self.passes}; give at least 1")
        if self.max_forgetting is not None and not self.probe:
            raise UserError("--max-forgetting needs --probe, a text that must not be forgotten")
        documents = read_documents(self.texts)
        probe = tuple(text for _, text in read_documents(self.probe))
        options = Options(
            segment=self.segment,
            window=self.window,
            surprise=self.surprise,
            averages=parse_spans(self.averages) if self.averages else None,
        )
        # from before the memory is read to after it is written, or what one of two learns is lost
        with locked(self.memory, "nestling learn"):
            learner = open_learner(
                self.model, self.memory, levels=self.levels, options=options, device=self.device
            )
            if self.study is not None:
                learner.studies = self.study != "none"
            check_options(learner, self._named())
            guard = Guard(probe=probe, limit=self.max_forgetting) if probe else None
            studies = self._studies(learner, guard)
            session = Session(
                learner=learner,
                memory=self.memory,
                save_every=self.save_every,
                guard=guard if learner.levels else None,
            )
            with session.shown(self.quiet):
                for number in range(self.passes):
                    session.read(documents, again=self.again or number > 0, about=self.about)
            if self.finish:
                session.finish()
            if learner.studies:
                with studies.shown(self.quiet):
                    studies.run()
        print(session.summary())
        if studies.studied:
            print(studies.summary())
        if self.json is not None:
            result = session.result(self.model)
            result.metrics["study"] = studies.record()
            result.write(self.json)

    def _named(self) -> set[str]:
        """The names of the options that differ from their defaults."""
        return {one.name for one in fields(self) if getattr(self, one.name) != one.default}

    def _studies(self, learner: Any, guard: Any) -> Any:
        """The study of the waiting documents, configured by the options."""
        import dataclasses

        from nestling.continual.study.plan import PLANS
        from nestling.continual.study.session import Studies, questions_shown, read_questions

        plan = PLANS[self.study if self.study in PLANS else "full"]
        plan = dataclasses.replace(
            plan, rank=self.rank or learner.rank, budget=self.budget, keep_text=self.keep_text
        )
        return Studies(
            learner=learner,
            memory=self.memory,
            plan=plan,
            guard=guard,
            own=read_questions(self.questions) if self.questions else (),
            made=questions_shown if self.show_questions else None,
        )
