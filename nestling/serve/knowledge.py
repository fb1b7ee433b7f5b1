"""The weights of the model with what a memory knows of a prompt; the last used are cached."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from nestling.continual.learner import ContinualLearner
from nestling.continual.study.record import Studied
from nestling.continual.study.routing import concerned, with_change_of
from nestling.serve.added import Added, thin_change
from nestling.serve.batch import Weights
from nestling.serve.library import Memory
from nestling.serve.model import Served

T = TypeVar("T")


class Known(NamedTuple):
    """Weights, their key, and the changes to add to them."""

    key: str
    weights: Weights
    added: Added | None = None
    before: "Known | None" = None  # weights before study; None: nothing was studied


class Knowledge:
    """Reads memory files; a file is read again when its version has changed.

    Of what a memory has studied, the document that a prompt concerns most is used, as by `ask`.
    """

    def __init__(self, served: Served, most: int = 4):
        self.served, self.most = served, most
        self._base = Known("", served.learner.weights())
        self._read: OrderedDict[str, ContinualLearner] = OrderedDict()
        self._kept: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def base(self) -> Known:
        """The model without a memory."""
        return self._base

    def of(self, memory: Memory, text: str) -> Known:
        """The weights with what a memory knows of a text."""
        with self._lock:
            learner = self._learner(memory)
            studied = learner.state.studied
            chosen = concerned(text, studied, 1)
            used = with_change_of(chosen[0], studied) if chosen else ()
            key = " ".join([memory.key, *(one.sha256 for one in used)])
            if key not in self._kept:
                self._kept[key] = self._known(key, learner, used)
            return _latest(self._kept, key, self.most)

    def _learner(self, memory: Memory) -> ContinualLearner:
        if memory.key not in self._read:
            learner = self.served.learner.fork()
            learner.load(memory.known)
            self._read[memory.key] = learner
        return _latest(self._read, memory.key, self.most)

    def _known(self, key: str, learner: ContinualLearner, used: Sequence[Studied]) -> Known:
        """The model's own weights and the change to add, if that is small."""
        change = thin_change(learner, used, self.served.maps)
        if change is None:
            before = Known(f"{key} before", learner.weights(studied=()))
            found = Known(key, learner.weights(studied=used))
        else:
            before = self._base
            found = self._base._replace(added=Added(key, change) if change else None)
        return found._replace(before=before) if learner.state.studied else found


def _latest(kept: OrderedDict[str, T], key: str, most: int) -> T:
    """A cached value, which becomes the last used; beyond ``most`` the first ones are dropped."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]
