"""The served model: loaded once, used by two threads at the same time."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.study.form import END, PLAIN
from nestling.continual.text import Text
from nestling.core.error import UserError
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import Stacked
from nestling.serve.turns import Turn, chat_tokens


@dataclass(frozen=True, kw_only=True)
class Served:
    """A named model with three learners: to answer, to learn and to recall."""

    name: str
    learner: ContinualLearner  # fresh; used by the answering thread
    teacher: ContinualLearner  # fresh; used by the learning thread
    recaller: ContinualLearner  # fresh; used by one recalling thread at a time

    @property
    def reader(self) -> FunctionalModel:
        """The reader that generates answers."""
        return self.learner.reader

    @property
    def text(self) -> Text:
        """The tokenizer."""
        return self.learner.text

    @property
    def limit(self) -> int | None:
        """The largest number of tokens of prompt and answer; None: unlimited."""
        return self.reader.limit

    @functools.cached_property
    def maps(self) -> frozenset[str]:
        """The weights of linear maps to which a memory's change can be added per row."""
        return self.reader.called_maps()

    @property
    def vocabulary(self) -> int:
        """The number of embeddings of the model."""
        return int(self.reader.model.get_input_embeddings().num_embeddings)

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        config = getattr(self.reader.model, "generation_config", None)
        given = [self.text.tokenizer.eos_token_id, getattr(config, "eos_token_id", None)]
        flat = [token for one in given for token in (one if isinstance(one, list) else [one])]
        return frozenset(int(token) for token in flat if token is not None)

    def chat(self, turns: Sequence[Turn]) -> tuple[list[int], tuple[str, ...]]:
        """The token ids of a conversation up to the answer, and the stop strings of the answer."""
        if self.learner.talks:
            return chat_tokens(self.text.tokenizer, turns), ()
        said = [
            PLAIN.format(question=text)
            if role == "user"
            else f" {text}{END}"
            if role == "assistant"
            else f"{text}{END}"
            for role, text in turns
        ]
        return self.text.prompt("".join(said)), (END,)


def serve_model(source: str | Path | Stacked, *, name: str = "", device: str = "cpu") -> Served:
    """Load a model as `nestling ask` does; ``name`` is for requests, by default its folder's."""
    learner = open_learner(source, device=device)
    if not name:
        if isinstance(source, Stacked):
            raise UserError("a model without a folder needs a name")
        name = Path(source).resolve().name or str(source)
    _ = learner.text.tokenizer  # a model without a tokenizer cannot be served
    _ = learner.digest  # compute it now, for both: otherwise the first memory waits for it
    teacher, recaller = learner.fork(), learner.fork()
    for one in (teacher, recaller):
        one.reader = FunctionalModel(twin(learner.base.model))
    served = Served(name=name, learner=learner, teacher=teacher, recaller=recaller)
    _ = served.maps  # now, before another thread uses the model
    return served


def twin(model: Any) -> Any:
    """The same model for another thread: its own modules, shared parameters."""
    return copy.deepcopy(model, {id(one): one for one in model.parameters()})
