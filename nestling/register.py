"""Makes transformers and PEFT know Hope as soon as both are imported, in either order.

They take seconds to import, and most commands need neither: nothing here imports them.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

# modules whose import is followed by imports of ours that register with them
FOLLOWED = {
    "transformers.models.auto.configuration_auto": ("nestling.models.config",),
    "transformers.models.auto.modeling_auto": (
        "nestling.models.model",
        "nestling.models.hf",
        "nestling.models.classification",
    ),
    "transformers.modeling_layers": ("nestling.models.classification",),
    "peft.utils.constants": ("nestling.models.adapters",),
}
# modules that a follower imports; one of them may have just triggered it
NEEDED = {"nestling.models.classification": "transformers.modeling_layers"}


class _Follow(importlib.abc.Loader):
    """Loads a module as its own loader would, then imports what follows it."""

    def __init__(self, loader: importlib.abc.Loader, followers: tuple[str, ...]):
        self.loader = loader
        self.followers = followers

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        for follower in self.followers:
            needed = NEEDED.get(follower)
            if needed == module.__name__ or not _half_imported(needed):  # else it follows that one
                importlib.import_module(follower)


def _half_imported(name: str | None) -> bool:
    """Whether a module is being imported right now."""
    spec = getattr(sys.modules.get(name or ""), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the followed modules, each once, and nothing else."""

    def __init__(self):
        self.waiting = dict(FOLLOWED)

    def find_spec(self, fullname, path=None, target=None):
        followers = self.waiting.pop(fullname, None)
        if followers is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Follow(spec.loader, followers)
        return spec


def register() -> None:
    """Register Hope with transformers' Auto classes and PEFT, now or when they are imported."""
    finder = _Finder()
    for followed, followers in FOLLOWED.items():
        if followed in sys.modules:
            finder.waiting.pop(followed)
            for follower in followers:
                importlib.import_module(follower)
    sys.meta_path.insert(0, finder)
