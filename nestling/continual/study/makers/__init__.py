"""Makers of study material: one file and one line here for each."""

from nestling.core.registry import Registry

MAKERS = Registry(
    "maker",
    {
        "about": "nestling.continual.study.makers.about:About",
        "gap": "nestling.continual.study.makers.gap:Gap",
        "gist": "nestling.continual.study.makers.gist:Gist",
        "moved": "nestling.continual.study.makers.moved:Moved",
    },
)
