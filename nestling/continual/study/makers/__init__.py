"""Makers of study material: each is one file, and one line here."""

from nestling.continual.study.material import Question
from nestling.core.registry import Registry

MAKERS = Registry(
    "maker",
    {
        "about": "nestling.continual.study.makers.about:About",
        "gap": "nestling.continual.study.makers.gap:Gap",
        "gist": "nestling.continual.study.makers.gist:Gist",
        "keyed": "nestling.continual.study.makers.keyed:Keyed",
        "kinds": "nestling.continual.study.makers.kinds:Kinds",
        "moved": "nestling.continual.study.makers.moved:Moved",
    },
)


def natural(question: Question) -> bool:
    """Whether a user might ask this question, so that it is judged and used in examinations."""
    return MAKERS.load(question.maker).natural
