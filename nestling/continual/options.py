"""Which options of ``nestling learn`` apply to which kind of learner."""

from collections.abc import Collection

from nestling.continual.learner import ContinualLearner
from nestling.core.error import UserError

# segment, surprise and averages are refused by the learner itself
READING = ("passes", "finish", "save_every")
STUDY = ("about", "budget", "rank", "show_questions", "questions", "keep_text")


def check_options(learner: ContinualLearner, named: Collection[str]) -> None:
    """Raise UserError if one of the given options would have no effect."""
    if not learner.levels:
        if not learner.studies:
            raise UserError("this model learns only by study; leave out --study none")
        _refuse(named, READING, "reading writes no level of this model; leave it out")
    if not learner.studies:
        _refuse(named, STUDY, "nothing is studied; add --study full, or leave it out")
    if {"save_every", "probe"} <= set(named):
        raise UserError(
            "--save-every has no effect with --probe, which writes the file after each document; "
            "leave it out"
        )


def _refuse(named: Collection[str], names: Collection[str], why: str) -> None:
    for name in names:
        if name in named:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} has no effect here: {why}")
