"""The weights of the model with what a memory knows of a prompt; the last used are cached."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from nestling.continual.study.change import changed
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


class Content(NamedTuple):
    """What is kept of a memory file."""

    before: Known  # the weights of its levels, without what was studied
    studied: tuple[Studied, ...]


class Knowledge:
    """Reads memory files; a file is read again when its version has changed.

    Of what a memory has studied, the document that a prompt concerns most is used.
    """

    def __init__(self, served: Served, most: int = 4):
        self.served, self.most = served, most
        self._base = Known("", served.learner.weights())
        self._read: OrderedDict[str, Content] = OrderedDict()
        self._kept: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def base(self) -> Known:
        """The model without a memory."""
        return self._base

    def of(self, memory: Memory, text: str) -> Known:
        """The weights with what a memory knows of a text."""
        with self._lock:
            content = self._content(memory)
        chosen = concerned(text, content.studied, 1)
        used = with_change_of(chosen[0], content.studied) if chosen else ()
        key = " ".join([memory.key, *(one.sha256 for one in used)])
        with self._lock:
            if key not in self._kept:
                found = self._known(key, content.before, used)
                self._kept[key] = found._replace(before=content.before if content.studied else None)
            return _latest(self._kept, key, self.most)

    def _content(self, memory: Memory) -> Content:
        if memory.key not in self._read:
            learner = self.served.learner.fork()
            learner.load(memory.known)
            before = self._base
            if not learner.studies:  # it has levels
                before = Known(f"{memory.key} before", learner.weights(studied=()))
            self._read[memory.key] = Content(before, learner.state.studied)
        return _latest(self._read, memory.key, self.most)

    def _known(self, key: str, before: Known, used: Sequence[Studied]) -> Known:
        """The weights before study and the change to add, if that is small."""
        learner = self.served.learner
        change = thin_change(learner, used, self.served.maps)
        if not used or change:
            return before._replace(added=Added(key, change) if change else None)
        start = {**learner.own, **before.weights}
        return Known(key, {**before.weights, **changed(start, [one.change for one in used])})


def _latest(kept: OrderedDict[str, T], key: str, most: int) -> T:
    """A cached value, which becomes the last used; beyond ``most`` the first ones are dropped."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]
