"""Self-study: what was read into the context moves into the weights, and answers without it.

Consolidation of the fastest level, the context, into a slower one. The frozen model makes and
judges questions about a passage that lies in its context; a change of low rank then learns to
answer them without it, while near names, text that the model writes itself, and what it says of
earlier documents hold the rest in its place.

Sources: arXiv 2506.06266 (self-study with context distillation), 2506.10943 (self-edits),
2106.09685 (low rank). Deviates: questions come from words of the text moved by rules, and are
judged by the model; answers are parts of the text, not samples.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nestling.continual.replay import written_by
from nestling.continual.study.aim import aimed
from nestling.continual.study.body import Body, Ids, body
from nestling.continual.study.change import Change, Factors, changed, joined, new_change, rounded
from nestling.continual.study.examine import asked_of, hold_out, right
from nestling.continual.study.form import Form, forms, plain
from nestling.continual.study.judge import chosen, judged, missing
from nestling.continual.study.keep import near_drafts, own_drafts, replay_drafts
from nestling.continual.study.lessons import learned, lessons
from nestling.continual.study.makers import MAKERS, natural
from nestling.continual.study.material import Place, Question
from nestling.continual.study.naming import with_names
from nestling.continual.study.passages import Passage, passages
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import Open, Studied, Waiting
from nestling.continual.study.related import Related
from nestling.continual.study.replay import replayed
from nestling.continual.study.side_by_side import speaker
from nestling.continual.study.speaker import Speaker
from nestling.continual.study.training import Kind, Training
from nestling.continual.study.words import telling
from nestling.core.error import UserError

if TYPE_CHECKING:
    from nestling.continual.learner import ContinualLearner


class Progress(NamedTuple):
    """Where a study stands."""

    name: str  # of the document
    what: str
    done: int  # steps
    steps: int  # of all passages
    loss: float | None = None
    fresh: bool = False  # the first step of a passage


HELD = 4  # texts of the base that known text is measured on
KNOWN = "known/"  # what the names of tensors begin with that earlier passages have written
Show = Callable[["ContinualLearner", Progress], None]


class School:
    """What the study of every document of a learner shares: the frozen model in its two forms."""

    def __init__(self, learner: "ContinualLearner"):
        names = targets(learner)
        self.learner = learner
        self.forms = forms(learner.text)
        self.speaker: Speaker = speaker(learner.reader)
        chat = self.forms[1]
        self.opening: Ids = chat.opening if chat else ()
        self.body: Body = body(learner.reader, _lowest(learner, names), self.opening)
        own = dict(learner.reader.model.named_parameters())
        self.start = {name: own[name].detach() for name in names}

    @property
    def talk(self) -> Form:
        """How the model is talked to."""
        return self.forms[1] or self.forms[0]

    def own_texts(self, plan: Plan) -> tuple[list[Ids], list[Ids]]:
        """Texts that the base writes itself: some for lessons, some to measure known text by.

        They are written once for a memory, which keeps them.
        """
        learner, wanted = self.learner, plan.own_count + HELD
        there = learner.state.own
        if len(there) != wanted or any(len(ids) != plan.own_length for ids in there):
            rows = written_by(learner.reader, learner.text, {}, wanted, plan.own_length, plan.seed)
            there = tuple(tuple(row) for row in rows.tolist())
            learner.state = learner.state._replace(own=there)
        return list(there[:-HELD]), list(there[-HELD:])

    @torch.no_grad()
    def known(self, plan: Plan, weights: Mapping[str, Tensor]) -> float:
        """The loss of texts that the base writes and no lesson holds, nats a token."""
        asked = [(ids[:1], ids[1:]) for ids in self.own_texts(plan)[1]]
        scores = self.speaker.scores(self.speaker.told(()), asked, weights)
        return -float(torch.cat([score.nats for score in scores]).mean())


def targets(learner: "ContinualLearner") -> tuple[str, ...]:
    """The matrices that study writes: those of the levels."""
    own = dict(learner.reader.model.named_parameters())
    named = [name for names in learner.base.parameters for name in names]
    found = tuple(name for name in named if own[name].ndim == 2 and own[name].is_floating_point())
    if not found:
        raise UserError("the levels of this model have no matrices, so they cannot learn by study")
    return found


def _lowest(learner: "ContinualLearner", names: tuple[str, ...]) -> int:
    """The lowest layer that anything learned reaches; 0 where layers are not numbered."""
    all_names = {*names, *(name for group in learner.parameters for name in group)}
    numbers = []
    for name in all_names:
        number = next((part for part in name.split(".") if part.isdigit()), None)
        numbers.append(-1 if number is None else int(number))
    return max(0, min(numbers))


def study_next(school: School, plan: Plan | None = None, show: Show | None = None) -> Studied:
    """Study the first document that waits to its end; there must be one.

    After every step the learner's state holds all that is needed to go on there.
    """
    learner = school.learner
    waiting = learner.state.waiting[0]
    state = learner.state.open or Open(asdict(plan or Plan()))
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in state.plan.items()
    }
    return _Lesson(school, waiting, Plan(**fields), show).run(state)


class _Lesson:
    """The study of one document."""

    def __init__(self, school: School, waiting: Waiting, plan: Plan, show: Show | None):
        self.school, self.learner = school, school.learner
        self.waiting, self.plan, self.show = waiting, plan, show
        text = school.learner.text
        self.parts = passages(waiting.text, lambda line: len(plain(text, line)), plan.passage)
        self.steps = plan.all_steps([len(part.sentences) for part in self.parts])
        self.weights = school.learner.weights()
        self.began = time.monotonic()

    def run(self, state: Open) -> Studied:
        self.spent = state.seconds
        while state.passage < len(self.parts):
            part = self.parts[state.passage]
            if not state.questions:
                self.tell(state, "making questions")
                state = self.keep(state._replace(questions=tuple(self.questions(state, part))))
            state = self.train(state, part)
            known = joined(_factors(state, KNOWN), rounded(_factors(state)), self.plan.most_rank)
            state = self.keep(
                state._replace(
                    passage=state.passage + 1,
                    done=0,
                    questions=(),
                    earlier=(*state.earlier, *state.questions),
                    tensors=change_tensors(KNOWN, known),
                )
            )
        return self.finish(state)

    def keep(self, state: Open) -> Open:
        """What has been done so far is in the learner's state."""
        state = state._replace(seconds=self.spent + time.monotonic() - self.began)
        self.learner.state = self.learner.state._replace(open=state)
        return state

    def tell(self, state: Open, what: str, loss: float | None = None) -> None:
        if self.show is not None:
            done = sum(self.steps[: state.passage]) + state.done
            steps, fresh = sum(self.steps), state.done == 1
            now = Progress(self.waiting.name, what, done, steps, loss, fresh)
            self.show(self.learner, now)

    def questions(self, state: Open, part: Passage) -> list[Question]:
        """The material of a passage: made, judged, and a part of it held out."""
        plan = self.plan
        seed = f"{plan.seed}:{self.waiting.sha256}:{state.passage}"
        speaker, text = self.school.speaker, self.learner.text
        place = Place(part, speaker, text, seed, Related(part, speaker, text))
        made = [one for name in plan.makers for one in MAKERS.load(name)().make(place)]
        asks = [one for one in made if one.answer and natural(one)]
        others = [one for one in made if not (one.answer and natural(one))]
        if plan.judge and asks:
            asks = judged(place, asks)
        best = chosen(asks, part.sentences, each=plan.each, most=plan.most)
        return hold_out([*best, *others], plan.held, seed)

    def train(self, state: Open, part: Passage) -> Open:
        """All steps of a passage that are left."""
        training = self.training(state, part)
        if state.done:
            training.restore(state.done, state.tensors)
        kept = {k: v for k, v in state.tensors.items() if k.startswith(KNOWN)}
        while training.done < training.steps:
            loss = training.step()
            tensors = {name: value.clone() for name, value in training.tensors().items()} | kept
            state = self.keep(state._replace(done=training.done, tensors=tensors))
            self.tell(state, "studying", loss)
        return state

    def training(self, state: Open, part: Passage) -> Training:
        plan, school = self.plan, self.school
        seed = f"{plan.seed}:{self.waiting.sha256}:{state.passage}"
        studied = with_names(state.questions, part.about, seed)
        new = learned(plan, part, studied, school.forms)
        asked = [one.question for one in studied if natural(one)]
        near = near_drafts(school.speaker, school.forms, asked, part.about, plan, seed)
        earlier = replayed(self.learner.state.studied, state, seed)
        before = self._with(state)
        recalled, short = replay_drafts(school.speaker, school.forms, earlier, before)
        base: Mapping[str, Tensor] | None = None
        groups = [
            *((drafts, weight, count, base) for drafts, weight, count in new),
            (near, plan.near_weight, plan.near, base),
            (own_drafts(school.own_texts(plan)[0]), plan.own_weight, plan.own, base),
            (recalled, plan.replay_weight, plan.replay, before),
            (short, plan.replay_weight, plan.replay, base),
        ]
        kinds = [
            Kind(lessons(school.body, drafts, weights), weight, count)
            for drafts, weight, count, weights in groups
        ]
        change = new_change(school.start, plan.rank, plan.seed)
        if plan.aim and not state.done:
            count = len(new)
            own = [lesson for kind in kinds[:count] for lesson in kind.lessons]
            others = kinds[count].lessons + kinds[count + 1].lessons
            change = aimed(change, school.body, own, others, plan.seed)
        return Training(
            school.body,
            before,
            change,
            kinds,
            rate=plan.rate,
            steps=self.steps[state.passage],
            seed=plan.seed,
            fixed=plan.fixed,
        )

    def _with(self, state: Open) -> dict[str, Tensor]:
        """The weights as a passage finds them."""
        known = _factors(state, KNOWN)
        if not known:
            return self.weights
        start = {**self.school.start, **self.weights}
        return {**self.weights, **changed(start, [known])}

    def finish(self, state: Open) -> Studied:
        """The change is rounded and kept, the text is let go, and questions are asked."""
        learner, school = self.learner, self.school
        self.tell(state, "asking questions")
        change = _factors(state, KNOWN)
        made = state.earlier
        ask = asked_of(made, seed=f"{self.plan.seed}")
        before = right(school.speaker, school.talk, ask, self.weights)
        sentences = [line for part in self.parts for line in part.sentences]
        now = self._with(state)
        after = right(school.speaker, school.talk, ask, now)
        held = [one.held for one in ask]
        kept = [one if self.plan.keep_text else one._replace(reply="") for one in made]
        figures = {
            "questions": float(len(made)),
            "asked": float(len(ask)),
            "right_before": float(sum(before)),
            "right_after": float(sum(after)),
            "held": float(sum(held)),
            "held_right": float(sum(a for a, h in zip(after, held, strict=True) if h)),
            "telling": float(len({w for s in sentences for w in telling(s)})),
            "known_before": school.known(self.plan, self.weights),
            "known_after": school.known(self.plan, now),
        }
        one = Studied(
            self.waiting.name,
            self.waiting.sha256,
            tuple(kept),
            tuple(missing(sentences, made)),
            change,
            figures,
            self.parts[0].about if self.parts else "",
        )
        self.seconds = self.spent + time.monotonic() - self.began
        old = learner.state
        learner.state = old._replace(
            studied=(*old.studied, one), waiting=old.waiting[1:], open=None
        )
        return one


def _factors(state: Open, head: str = "") -> Change:
    """A change among the tensors of an open study: that of now, or what is KNOWN already."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        begin, _, side = key.rpartition(":")
        if side in Factors._fields and begin.startswith(KNOWN) == bool(head):
            found.setdefault(begin.removeprefix(head), {})[side] = value
    return {name: Factors(**sides) for name, sides in found.items()}


def change_tensors(head: str, change: Change) -> dict[str, Tensor]:
    """The factors of a change by names ``_factors`` knows."""
    return {
        f"{head}{name}:{side}": value
        for name, factors in change.items()
        for side, value in zip(Factors._fields, factors, strict=True)
    }
