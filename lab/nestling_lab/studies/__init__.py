"""Studies: grids of models, tasks and seeds, with one Result per cell."""

from nestling.core.registry import Registry
from nestling_lab.studies.runner import run_study
from nestling_lab.studies.shard import Shard
from nestling_lab.studies.store import Store
from nestling_lab.studies.study import Cell, Finding, Study

STUDIES = Registry(
    "study",
    {
        "recall-smoke": "nestling_lab.studies.recall_smoke:RecallSmoke",
        "demo-gap": "nestling_lab.studies.demo_gap:DemoGap",
        "recall-after-text": "nestling_lab.studies.recall_after_text:RecallAfterText",
        "figure-lm": "nestling_lab.studies.figure_lm:FigureLm",
        "figure-lm-tuned": "nestling_lab.studies.figure_lm_tuned:FigureLmTuned",
        "head-level": "nestling_lab.studies.head_level:HeadLevelStudy",
        "hope-ablation": "nestling_lab.studies.hope_ablation:HopeAblation",
        "scaling": "nestling_lab.studies.scaling:Scaling",
        "babilong": "nestling_lab.studies.babilong:BabilongStudy",
        "formal-languages": "nestling_lab.studies.formal_languages:FormalLanguages",
        "mad": "nestling_lab.studies.mad:MadTasks",
        "figure-niah": "nestling_lab.studies.figure_niah:FigureNiah",
        "continual-domains": "nestling_lab.studies.continual.domains:Domains",
        "class-incremental": "nestling_lab.studies.continual.class_incremental:ClassIncremental",
        "facts": "nestling_lab.studies.continual.facts:Facts",
        "told": "nestling_lab.studies.continual.told:ToldStudy",
        "told-again": "nestling_lab.studies.continual.told:ToldAgainStudy",
        "told-checked": "nestling_lab.studies.continual.told_checked:ToldCheckedStudy",
        "told-fresh": "nestling_lab.studies.continual.told_checked:ToldFreshStudy",
        "told-new": "nestling_lab.studies.continual.told_checked:ToldNewStudy",
        "told-plain": "nestling_lab.studies.continual.told_checked:ToldPlainStudy",
        "manuals": "nestling_lab.studies.continual.manuals:Manuals",
        "corrections": "nestling_lab.studies.continual.corrections:Corrections",
        "notices": "nestling_lab.studies.continual.corrections:Notices",
        "many-documents": "nestling_lab.studies.continual.many:ManyDocuments",
        "study-parts": "nestling_lab.studies.continual.study_parts:StudyParts",
        "debian-packages": "nestling_lab.studies.continual.debian:DebianPackages",
        "new-languages": "nestling_lab.studies.continual.new_languages:NewLanguages",
        "continual-domains-smollm2": "nestling_lab.studies.continual.domains:LargeDomains",
        "ladder-smoke": "nestling_lab.studies.ladder_smoke:LadderSmoke",
        "optim-curvature": "nestling_lab.studies.optimizers.curvature:Curvature",
        "optim-forgetting": "nestling_lab.studies.optimizers.forgetting:Forgetting",
        "optim-messy": "nestling_lab.studies.optimizers.messy:Messy",
        "optim-vision": "nestling_lab.studies.optimizers.vision:Vision",
        "optim-language": "nestling_lab.studies.optimizers.language:Language",
    },
)


def load_study(name: str) -> Study:
    """The study of this name, with its committed settings. Raises UserError if it is unknown."""
    return STUDIES.load(name)()


__all__ = ["STUDIES", "Cell", "Finding", "Shard", "Store", "Study", "load_study", "run_study"]
