"""The study of Debian packages: the draw, one run of a tiny model, the page."""

import dataclasses

import pytest
from small_facts import tiny_reader

from nestling.continual import ContinualLearner
from nestling.continual.study.plan import Plan
from nestling.core.result import Result
from nestling.data.sets import Described
from nestling.models.pretrained import stack_model, studied_level
from nestling_lab.studies.continual.debian import WAYS, DebianPackages, drawn, measured, overlap

ROWS = [
    Described(f"{section}{n}", section, f"{section} tool number {n} of them", f"It is {n}. " * 9)
    for section in ("games", "mail", "math")
    for n in range(6)
]


def test_packages_are_of_different_sections_and_told_from_their_own():
    found = drawn(ROWS, 0, 3)
    assert found == drawn(ROWS, 0, 3) != drawn(ROWS, 1, 3)
    assert {one.section for one in found} == {"games", "mail", "math"}
    for one in found:
        assert len(set(one.lines)) == 4 and one.name in one.text and one.name in one.question
        assert all(line.startswith(one.section) for line in one.lines)
        assert one.lines[0].split()[3] == one.name[-1]


def test_every_way_is_asked_and_study_changes_the_answers(monkeypatch):
    model, tokenizer = tiny_reader()
    stacked = stack_model(model, tokenizer, [studied_level(4, (1, 2))], "low-rank")
    monkeypatch.setattr("nestling.continual.learner.Plan", lambda rank: Plan(rank=rank, rounds=1))
    found = measured(ContinualLearner(stacked), drawn(ROWS, 0, 2))
    assert list(found["answers"]) == list(WAYS)
    assert all(len(own) == 2 for own in found["answers"].values())
    margins = {way: [margin for margin, _ in own] for way, own in found["answers"].items()}
    assert margins["studied"] != margins["nothing"] != margins["chat"] != margins["shots"]


def test_page_compares_study_with_nothing_read():
    study = DebianPackages(DebianPackages.Config(seeds=(0,)))
    [cell] = study.cells({})
    ways = {"nothing": (-1.0, "a tool"), "chat": (1.0, "mail"), "shots": (1.0, "mail client"),
            "studied": (1.0, "a mail client")}  # fmt: skip
    run = {
        "answers": {way: [list(said)] for way, said in ways.items()},
        "packages": [["mutt", "mail", "What is it?", "mail client"]],
        "own": [[1.0, 1.01]],
        "seconds": 3.0,
    }
    done = {
        cell.name: Result(name="debian-packages/seed0", config=cell.config, metrics=run, seed=0)
    }
    found = study.find(done)
    assert found.metrics["studied"] == {"right": 1, "of": 1, "words": [1.0]}
    assert found.metrics["nothing"]["right"] == 0 and found.metrics["chat"]["words"] == [0.5]
    assert found.answer.startswith("Not significantly: after study 100% of the packages")
    many = {
        **run,
        "answers": {way: 9 * said for way, said in run["answers"].items()},
        "packages": 9 * run["packages"],
    }
    done[cell.name] = dataclasses.replace(done[cell.name], metrics=many)
    assert study.find(done).answer.startswith("Yes: after study 100% of the packages")
    assert study.find({}).answer == "Nothing has been run yet."


def test_overlap_counts_content_words_without_the_name():
    assert overlap("mutt is a mail client", "It reads mail.", "mutt") == pytest.approx(0.5)
