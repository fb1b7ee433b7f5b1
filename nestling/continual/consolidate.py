"""Consolidation: distil the fast levels into a slower one, then reset them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.continual.learner import ContinualLearner
from nestling.continual.replay import Rows, Weights, written_by
from nestling.core.error import UserError
from nestling.rules.level import CMSLevel, LevelState, gather, new_level, weights_of, write


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to replay, and how the receiving level learns."""

    into: int = 0  # number of the receiving level, 0 the slowest; faster ones are reset
    budget: int = 20_000  # tokens of replay in total
    batch: int = 512  # tokens of replay per write
    length: int = 64  # tokens per replayed sequence
    keep: float = 0.5  # share of the replay that keeps the model as it was before
    lr: float = 1e-4  # learning rate of a write
    rule: str = "adam"  # of the writes: a name in nestling.rules.RULES
    seed: int = 0  # of the sequences

    def __post_init__(self):
        if self.length < 2 or self.batch < self.length or self.budget < 3 * self.batch:
            raise UserError(
                f"length is {self.length}, batch {self.batch}, budget {self.budget} tokens; give a "
                "length of at least 2, a batch of at least one sequence, and a budget of at least "
                "three batches"
            )
        if not 0 <= self.keep < 1:
            raise UserError(
                f"keep is {self.keep}; give a share of the replay, at least 0 and below 1"
            )


@dataclass(frozen=True, kw_only=True)
class Consolidation:
    """The outcome: distances are mean KL divergences (nats per token) on held-out replay."""

    writes: int
    tokens: int  # replayed in total, including those held out
    learned_before: float  # from the teacher, with the fast levels reset only
    learned_after: float
    kept_after: float  # from the model as it was without the fast levels


def consolidate(
    learner: ContinualLearner, plan: Plan = Plan(), texts: Sequence[str] = ()
) -> Consolidation:
    """Distil the levels faster than ``plan.into`` into that level, then reset them to the base.

    There are two teachers: *after*, the model with everything it has learned, on sequences from
    ``texts`` or, without any, on sequences that it generates; and *before*, the model without the
    fast levels, on sequences that it generates itself. The student starts with the fast levels
    reset and minimises the mean KL divergence from the teacher of each sequence. Open periods stay,
    except those of the reset levels. If the receiving level is nested, its new weights become its
    starting point, so that later resets keep them.

    Source: the offline stage of arXiv 2606.03979 (consolidation against the model before the
    update, with its own samples). Deviates: the whole slower level learns, not a low-rank expert;
    the samples are off-policy, with no reward.
    """
    check_levels(learner, plan.into)
    after, student = learner.weights(studied=()), _without_faster(learner, plan.into)
    before = student.weights(studied=())
    replay = _replay(learner, plan, texts, after, before)
    held = next(replay)
    learned_before = _distance(learner, held[0], after, before).item()
    tokens, writes = held[0].numel() + held[1].numel(), 0
    start, names = student.start[plan.into], student.parameters[plan.into]
    trust = student.writers[plan.into].trust
    writer = CMSLevel(period=1, lr=plan.lr, rule=plan.rule, trust=trust)
    old = student.state.levels[plan.into]
    fresh = new_level(writer, start, 1, student.reader.inputs(names))
    level = fresh._replace(moved=old.moved)
    for after_rows, before_rows in replay:
        lessons = [(after_rows, after), (before_rows, before)]
        level = _taught(learner, writer, level, start, names, before, lessons)
        level = write(writer, start, level)
        tokens, writes = tokens + after_rows.numel() + before_rows.numel(), writes + 1
    levels = list(student.state.levels)
    # a nested level now starts from its new weights, or its next reset would lose them
    levels[plan.into] = old._replace(moved=level.moved, begin=level.moved if old.begin else ())
    student.state = student.state._replace(levels=tuple(levels))
    learner.state = student.state
    now = learner.weights(studied=())
    return Consolidation(
        writes=writes,
        tokens=tokens,
        learned_before=learned_before,
        learned_after=_distance(learner, held[0], after, now).item(),
        kept_after=_distance(learner, held[1], before, now).item() if held[1].numel() else 0.0,
    )


def check_levels(learner: ContinualLearner, into: int = 0) -> None:
    """Raise UserError unless there is a level ``into`` and a faster one."""
    if not learner.levels:
        raise UserError(
            "this memory was learned by study and has no levels to consolidate: the change of each "
            "document is its own level already"
        )
    if not 0 <= into < len(learner.levels) - 1:
        raise UserError(
            f"level {into} has no faster one; levels are 0 (slowest) to {len(learner.levels) - 1}"
        )


def _taught(
    learner: ContinualLearner,
    writer: CMSLevel,
    level: LevelState,
    start: Sequence[Tensor],
    names: Sequence[str],
    rest: Weights,
    lessons: Sequence[tuple[Rows, Weights]],
) -> LevelState:
    """The level with the gradients of the mean divergence of each row from its teacher.

    ``names`` are the level's own weights, ``rest`` all weights of the student.
    """
    lessons = [(rows, teacher) for rows, teacher in lessons if rows.numel()]
    size = sum(rows.numel() for rows, _ in lessons)
    values = [
        w[0].to(s.dtype).requires_grad_()
        for w, s in zip(weights_of(start, level), start, strict=True)
    ]
    now = {**rest, **dict(zip(names, values, strict=True))}
    with learner.reader.grams(names if writer.written_by.erases else ()) as sums:
        parts = [_distance(learner, rows, given, now) * rows.numel() for rows, given in lessons]
    grads = [g[None] for g in torch.autograd.grad(torch.stack(parts).sum() / size, values)]
    gram = [
        sums[name][None] / size if name in sums else empty
        for name, empty in zip(names, level.gram, strict=True)
    ]
    one = torch.ones(1, dtype=torch.long, device=learner.device)
    return gather(level, grads, seen=one, gram=gram)


def _without_faster(learner: ContinualLearner, into: int) -> ContinualLearner:
    student = learner.fork()
    for index in range(into + 1, len(learner.levels)):
        student.reset(index)
    # averages are of past weights, so they stay
    student.state = student.state._replace(averages=learner.state.averages)
    return student


def _distance(
    learner: ContinualLearner, rows: Rows, teacher: Weights, student: Weights
) -> Float[Tensor, ""]:
    """The mean KL divergence of the student from the teacher, nats per token, differentiable."""
    with torch.no_grad():
        wanted, _ = learner.reader.read(teacher, rows)
    found, _ = learner.reader.read(student, rows)
    wanted, found = (x.float().log_softmax(-1).flatten(0, 1) for x in (wanted, found))
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _replay(
    learner: ContinualLearner, plan: Plan, texts: Sequence[str], after: Weights, before: Weights
) -> Iterator[tuple[Rows, Rows]]:
    """Batches within the budget: sequences for the teacher *after*, and for the one *before*."""
    generator = torch.Generator().manual_seed(plan.seed)
    rows = max(plan.batch // plan.length, 1)
    old = min(round(rows * plan.keep), rows - 1)
    ids = [i for text in texts for i in learner.text.encode(text)]
    if texts and len(ids) < plan.length:
        raise UserError(f"the texts are too short: {len(ids)} tokens; give at least {plan.length}")
    for number in range(plan.budget // (rows * plan.length)):
        seed = plan.seed * 1_000_003 + number
        if texts:
            # inclusive: the last position from which a whole sequence can be read
            places = torch.randint(
                len(ids) - plan.length + 1, (rows - old,), generator=generator
            ).tolist()
            new = torch.tensor([ids[p : p + plan.length] for p in places], device=learner.device)
        else:
            new = written_by(learner.reader, learner.text, after, rows - old, plan.length, seed)
        yield new, written_by(learner.reader, learner.text, before, old, plan.length, seed)
