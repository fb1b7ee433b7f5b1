"""How thoroughly a document is studied."""

from collections.abc import Sequence
from dataclasses import dataclass

from nestling.core.error import UserError, did_you_mean

LEAST = 8  # writes for a passage, however short


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Material, lessons of each step, and how they are written.

    Counts of lessons are those of every step; weights are of a kind's mean loss.
    """

    makers: tuple[str, ...] = ("moved", "kinds", "keyed", "about", "gist")  # names of makers.MAKERS
    judge: bool = True  # the frozen model ranks questions; without it the first ones are taken
    each: int = 2  # questions of one maker for one answer
    most: int = 12  # questions with an answer for one sentence
    passage: int = 400  # tokens studied at once
    held: float = 0.1  # share of the questions that is asked, but never studied
    rank: int = 16  # of the change of a matrix
    most_rank: int = 64  # of a document's change: more passages than fit in it are pressed together
    aim: bool = True  # changes look where a document's inputs differ from other text's
    fixed: bool = False  # those directions stay what they are; only what is said there is learned
    rate: float = 6e-3  # learning rate
    rounds: int | float = 38  # how often each sentence is asked about, in the mean
    replies: int = 6  # lessons: a question, and the sentence that answers it
    keys: int = 7  # words that are no English, and how that sentence begins
    answers: int = 8  # where there is no chat template: a question, and its short answer
    lines: int = 1  # a sentence by itself, after the title
    near: int = 2  # questions of other names and situations, answered as the base does
    own: int = 1  # text that the base writes itself
    replay: int = 2  # what earlier documents taught, as the model says it now
    key_weight: float = 1.0
    answer_weight: float = 1.0
    line_weight: float = 0.5
    near_weight: float = 1.0
    own_weight: float = 1.0
    replay_weight: float = 2.0
    near_count: int = 24  # questions made near those of a passage
    own_count: int = 16  # texts the base writes
    own_length: int = 48  # tokens of each
    budget: int | None = None  # most writes for a document; None: as many as its length asks for
    keep_text: bool = False  # a memory keeps the sentences, and replays them
    seed: int = 0

    def __post_init__(self):
        from nestling.continual.study.makers import MAKERS

        for name in self.makers:
            if name not in MAKERS.names():
                raise UserError(f"unknown maker {name!r}: {did_you_mean(name, MAKERS.names())}")
        if not self.makers:
            raise UserError("study needs at least one maker of material")
        for name in ("each", "most", "passage", "rank", "replies", "own_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a study plan is {getattr(self, name)}; give at least 1")
        if self.budget is not None and self.budget < 1:
            raise UserError(f"the budget of a study plan is {self.budget}; give at least 1 write")
        if not 0 <= self.held < 1 or not self.rate > 0 or not self.rounds > 0:
            raise UserError(
                f"held is {self.held}, rate {self.rate}, rounds {self.rounds}; give held in "
                "[0, 1), rate and rounds above 0"
            )

    def all_steps(self, sentences: Sequence[int]) -> list[int]:
        """Writes for each passage of a document, by their numbers of sentences."""
        wanted = [max(LEAST, round(self.rounds * count / self.replies)) for count in sentences]
        if self.budget is None or sum(wanted) <= self.budget:
            return wanted
        return [max(1, self.budget * count // sum(wanted)) for count in wanted]


PLANS = {"light": Plan(rounds=19, near_count=12), "full": Plan()}
