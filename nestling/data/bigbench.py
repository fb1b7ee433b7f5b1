"""Multiple-choice questions of BIG-bench: for evaluation only, never for training.

Every BIG-bench file carries a canary string that asks to keep it out of training data. The
questions stay in the cache, are not offered as a corpus, and are never printed.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nestling.core.error import UserError, did_you_mean
from nestling.data import pypi
from nestling.data.cache import cache_folder, damaged, keep

RELEASE = "bigbench==1.0.0"  # of the Python package index; Apache-2.0
SHA256 = "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2"  # of its archive
INSIDE = "bigbench-1.0.0/bigbench/benchmark_tasks"
# ours: BIG-bench's
TASKS = {
    "social_iqa": "social_iqa",
    "goal_inference": "goal_step_wikihow/goal_inference",
    "step_inference": "goal_step_wikihow/step_inference",
    "date_understanding": "date_understanding",
    "disambiguation_qa": "disambiguation_qa",
    "physical_intuition": "physical_intuition",
    "riddle_sense": "riddle_sense",
    "timedial": "timedial",
}


class Choice(NamedTuple):
    """A multiple-choice question: its text, its choices, and the index of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int


def place(name: str) -> Path:
    """The cached file of a task. Raises UserError for an unknown name."""
    if name not in TASKS:
        raise UserError(f"unknown BIG-bench task {name!r}: {did_you_mean(name, TASKS)}")
    return cache_folder() / "bigbench" / f"{name}.json"


def read(name: str) -> list[Choice]:
    """The questions of a task, in file order. Raises UserError if they have not been fetched."""
    path = place(name)
    if not path.exists():
        raise UserError(f"{name} has not been fetched; run nestling data fetch bigbench")
    try:
        return [choice(example) for example in json.loads(path.read_bytes())["examples"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error


def choice(example: dict[str, Any]) -> Choice:
    """Parse a BIG-bench example; the choice with the highest target score is the right one.

    >>> choice({"input": "q", "target_scores": {"a": 0, "b": 1}})
    Choice(question='q', choices=('a', 'b'), answer=1)
    """
    scores = example["target_scores"]
    choices = tuple(scores)
    return Choice(example["input"], choices, choices.index(max(choices, key=scores.__getitem__)))


def fetch(report: Callable[[str], None] = print) -> None:
    """Fetch the archive with pip, keep the task files, and delete the rest."""
    if all(place(name).exists() for name in TASKS):
        report("bigbench is already fetched")
        return
    report(f"fetching {RELEASE} (358 MB), of which a few files are kept ...")
    with pypi.archive(RELEASE, SHA256, wheel=False) as path:
        unpack(path)
    report(f"{len(TASKS)} tasks fetched, for evaluation only")


def unpack(archive: Path) -> None:
    """Extract the task files from BIG-bench's archive. Raises UserError if one has changed."""
    pypi.check(archive, SHA256)
    wanted = {f"{INSIDE}/{theirs}/task.json": ours for ours, theirs in TASKS.items()}
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            content = members.extractfile(member) if member.name in wanted else None
            if content is not None:
                keep(place(wanted[member.name]), content.read())
