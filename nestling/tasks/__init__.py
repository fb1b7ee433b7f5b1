"""Questions with known answers; a task never sees a model."""

from nestling.core.registry import Registry
from nestling.tasks.task import (
    IGNORED,
    UNSEEN,
    Answer,
    Examples,
    Question,
    QuestionTask,
    Stage,
    StageTask,
    Task,
    TextTask,
    TokenTask,
)

TASKS = Registry(
    "task",
    {
        "recall": "nestling.tasks.recall:Recall",
        "recall-mqar": "nestling.tasks.mqar:Mqar",
        "mad-compress": "nestling.tasks.mad.copying:Compression",
        "mad-recall": "nestling.tasks.mad.recall:InContextRecall",
        "mad-fuzzy-recall": "nestling.tasks.mad.fuzzy:FuzzyRecall",
        "mad-noisy-recall": "nestling.tasks.mad.recall:NoisyRecall",
        "mad-selective-copy": "nestling.tasks.mad.copying:SelectiveCopying",
        "mad-memorise": "nestling.tasks.mad.copying:Memorisation",
        "formal-parity": "nestling.tasks.formal:Parity",
        "formal-aa-star": "nestling.tasks.formal:AAStar",
        "formal-abab-star": "nestling.tasks.formal:AbabStar",
        "formal-anbn": "nestling.tasks.formal:AnBn",
        "formal-anbncn": "nestling.tasks.formal:AnBnCn",
        "formal-shuffle-2": "nestling.tasks.formal:Shuffle2",
        "lm-stdlib": "nestling.tasks.lm:Stdlib",
        "lm-anarchism": "nestling.tasks.lm:Anarchism",
        "lm-web": "nestling.tasks.lm:Bible",
        "lm-python-doc": "nestling.tasks.lm:Manual",
        "niah-1": "nestling.tasks.niah:Niah1",
        "niah-2": "nestling.tasks.niah:Niah2",
        "niah-3": "nestling.tasks.niah:Niah3",
        "niah-multi-key": "nestling.tasks.niah:MultiKey",
        "niah-multi-key-lines": "nestling.tasks.niah:MultiKeyLines",
        "niah-multi-key-uuids": "nestling.tasks.niah:MultiKeyUuids",
        "niah-multi-query": "nestling.tasks.niah:MultiQuery",
        "niah-multi-value": "nestling.tasks.niah:MultiValue",
    },
)

__all__ = [
    "IGNORED",
    "TASKS",
    "UNSEEN",
    "Answer",
    "Examples",
    "Question",
    "QuestionTask",
    "Stage",
    "StageTask",
    "Task",
    "TextTask",
    "TokenTask",
]
