"""The weights of the model with a memory, cached for the memories used last."""

import threading
from collections import OrderedDict
from typing import NamedTuple

from nestling.continual.learner import ContinualLearner
from nestling.serve.added import Added, thin_change
from nestling.serve.batch import Weights
from nestling.serve.library import Memory
from nestling.serve.model import Served


class Known(NamedTuple):
    """Weights, their key, and the changes to add to them."""

    key: str
    weights: Weights
    added: Added | None = None
    before: "Known | None" = None  # weights before study; None: nothing was studied


class Knowledge:
    """Reads memory files; a file is read again when its version has changed."""

    def __init__(self, served: Served, most: int = 4):
        self.served, self.most = served, most
        self._base = Known("", served.learner.weights())
        self._kept: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def base(self) -> Known:
        """The model without a memory."""
        return self._base

    def of(self, memory: Memory) -> Known:
        """The weights with a memory."""
        key = memory.key
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            learner = self.served.learner.fork()
            learner.load(memory.known)
            found = self._kept[key] = self._known(key, learner)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
            return found

    def _known(self, key: str, learner: ContinualLearner) -> Known:
        """The model's own weights and the change to add, if that is small."""
        change = thin_change(learner, self.served.maps)
        if change is None:
            before = Known(f"{key} before", learner.weights(studied=False))
            found = Known(key, learner.weights())
        else:
            before = self._base
            found = self._base._replace(added=Added(key, change) if change else None)
        return found._replace(before=before) if learner.state.studied else found
