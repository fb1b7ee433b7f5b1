"""Makes transformers know Hope as soon as both are imported, in either order.

transformers takes seconds to import, and most commands need none of it: nothing here imports it.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

# what, once imported, is followed by an import of ours that registers with it
FOLLOWED = {
    "transformers.models.auto.configuration_auto": "nestling.models.config",
    "transformers.models.auto.modeling_auto": "nestling.models.hf",
}


class _Follow(importlib.abc.Loader):
    """Loads a module as its own loader would, then imports what follows it."""

    def __init__(self, loader: importlib.abc.Loader, follower: str):
        self.loader = loader
        self.follower = follower

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(self.follower)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the followed modules, each once, and nothing else."""

    def __init__(self):
        self.waiting = dict(FOLLOWED)

    def find_spec(self, fullname, path=None, target=None):
        follower = self.waiting.pop(fullname, None)
        if follower is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Follow(spec.loader, follower)
        return spec


def register() -> None:
    """Register Hope with transformers' Auto classes, now or when they are imported."""
    finder = _Finder()
    for followed, follower in FOLLOWED.items():
        if followed in sys.modules:
            finder.waiting.pop(followed)
            importlib.import_module(follower)
    sys.meta_path.insert(0, finder)
