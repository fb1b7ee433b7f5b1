"""A counting study for tests, importable by worker processes."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from nestling.core.result import Result
from nestling.report import Section, Table
from nestling_lab.studies import Cell, Finding, Study
from nestling_lab.studies.study import Tell, silent


class Counting(Study):
    """Three cells, and a fourth once the sum of the first three is known."""

    name = "counting"
    question = "how much is it together"

    def __init__(self, folder: Path, factor: int = 1):
        self.folder = folder
        self.factor = factor

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        first = [Cell(f"n{n}", {"n": n, "factor": self.factor}, n) for n in (1, 2, 3)]
        if all(cell.name in done for cell in first):
            total = sum(done[cell.name].metrics["value"] for cell in first)
            first.append(Cell("sum", {"n": total, "factor": 1}, 0))
        return first

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        tell(1, 1, 0.5)
        # a trace of every run, whichever process does it
        (self.folder / f"{cell.name}-{os.getpid()}").touch()
        metrics = {"value": cell.config["n"] * cell.config["factor"]}
        metrics["threads"] = torch.get_num_threads()
        return Result(name=cell.name, config=cell.config, metrics=metrics, seed=cell.seed)

    def find(self, done: Mapping[str, Result]) -> Finding:
        values = {name: result.metrics["value"] for name, result in done.items()}
        table = Table(columns=("cell", "value"), rows=list(values.items()))
        sections = [Section("Values", "So far.", [table])]
        return Finding(values, sections, f"{len(values)} are counted.")
