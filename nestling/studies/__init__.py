"""Studies: grids of models, tasks and seeds, with one Result for each cell."""

from nestling.core.registry import Registry
from nestling.studies.runner import run_study
from nestling.studies.shard import Shard
from nestling.studies.store import Store
from nestling.studies.study import Cell, Finding, Study

STUDIES = Registry(
    "study",
    {
        "recall-smoke": "nestling.studies.recall_smoke:RecallSmoke",
        "demo-gap": "nestling.studies.demo_gap:DemoGap",
        "recall-after-text": "nestling.studies.recall_after_text:RecallAfterText",
        "figure-lm": "nestling.studies.figure_lm:FigureLm",
        "figure-niah": "nestling.studies.figure_niah:FigureNiah",
        "continual-domains": "nestling.studies.continual.domains:Domains",
        "facts": "nestling.studies.continual.facts:Facts",
        "new-languages": "nestling.studies.continual.new_languages:NewLanguages",
        "continual-domains-smollm2": "nestling.studies.continual.domains:LargeDomains",
        "ladder-smoke": "nestling.studies.ladder_smoke:LadderSmoke",
        "optim-curvature": "nestling.studies.optimizers.curvature:Curvature",
        "optim-forgetting": "nestling.studies.optimizers.forgetting:Forgetting",
        "optim-messy": "nestling.studies.optimizers.messy:Messy",
        "optim-vision": "nestling.studies.optimizers.vision:Vision",
        "optim-language": "nestling.studies.optimizers.language:Language",
    },
)


def load_study(name: str) -> Study:
    """The study of that name in its committed form; an unknown name raises UserError."""
    return STUDIES.load(name)()


__all__ = ["STUDIES", "Cell", "Finding", "Shard", "Store", "Study", "load_study", "run_study"]
