"""An independent parser of the facts finds every answer in the long text."""

import re
from random import Random

import pytest

from nestling.core.error import UserError
from nestling.tasks import TASKS, UNSEEN
from nestling.tasks.babi import STORIES, THINGS
from nestling.tasks.babilong import Babilong1, Babilong2
from nestling.tasks.words import made_prose

NAMES = [f"babilong-{number}" for number in STORIES]
WHO, ROOM = r"(\b[A-Z]\w+)", r"the (bedroom|kitchen|garden|hallway|bathroom|office)"
THING = r"the (apple|football|milk)"
MOVE = re.compile(rf"{WHO} (?:went|journeyed|travelled|moved|went back) to {ROOM}\.")
GET = re.compile(rf"{WHO} (?:grabbed|took|got|picked up) {THING}(?: there)?\.")
DROP = re.compile(rf"{WHO} (?:dropped|discarded|left|put down) {THING}(?: there)?\.")
GIVE = re.compile(rf"{WHO} (?:gave|passed|handed) {THING} to {WHO}\.")
LIES = re.compile(rf"(?i){ROOM} is (north|south|east|west) of {ROOM}\.")
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}


def events(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every fact in the text, in order."""
    kinds = {"move": MOVE, "get": GET, "drop": DROP, "give": GIVE, "lies": LIES}
    found = [
        (hit.start(), kind, hit.groups()) for kind in kinds for hit in kinds[kind].finditer(text)
    ]
    return [(kind, groups) for _, kind, groups in sorted(found)]


def read(text: str, question: str) -> str:
    """The answer to a question, from the facts."""
    at: dict[str, str] = {}
    has: dict[str, str] = {}
    rooms: dict[str, list[str]] = {}
    given, beside = [], {}
    for kind, groups in events(text):
        if kind == "move":
            at[groups[0]] = groups[1]
        elif kind == "get":
            has[groups[1]] = groups[0]
        elif kind == "drop":
            has.pop(groups[1])
        elif kind == "give":
            given.append(groups)
        else:
            beside[groups[1], groups[2].lower()] = groups[0].lower()
            beside[BACK[groups[1]], groups[0].lower()] = groups[2].lower()
        for thing, owner in has.items():
            if owner in at and rooms.get(thing, [None])[-1] != at[owner]:
                rooms.setdefault(thing, []).append(at[owner])
    asked = question.rstrip("?").split()
    if hit := re.fullmatch(r"Where is (\w+)\?", question):
        return at[hit[1]]
    if re.fullmatch(r"Where is the (\w+)\?", question):
        return rooms[asked[-1]][-1]
    if question.startswith("Where was"):
        assert rooms[asked[3]][-1] == asked[-1]
        return rooms[asked[3]][-2]
    if hit := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
        return beside[hit[1], hit[2]]
    if hit := re.fullmatch(r"What is the (\w+) (\w+) of\?", question):
        return beside[BACK[hit[2]], hit[1]]
    giver, thing, receiver = given[-1]
    return thing if asked[0] == "What" else giver if asked[1] == "gave" else receiver


@pytest.mark.parametrize("name", NAMES)
def test_text_search_finds_the_answer(name):
    task = TASKS.load(name).tiny()
    for question in task.examples(UNSEEN, 150):
        asked = question.prompt.rpartition("Question: ")[2].partition("\n")[0]
        assert read(question.prompt, asked) == question.answers[0]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_roughly_uniform(name):
    """Guessing the most common answer gains almost nothing."""
    number = int(name[-1])
    rng, counts = Random(0), {}
    stories = [STORIES[number](rng) for _ in range(700)]
    for story in stories:
        assert story.answer in story.form and len(set(story.form)) == len(story.form)
        counts[story.answer] = counts.get(story.answer, 0) + 1
    things = {answer: n for answer, n in counts.items() if answer in THINGS}
    others = {answer: n for answer, n in counts.items() if answer not in THINGS}
    for alike in filter(None, (things, others)):
        total, share = sum(alike.values()), 1 / len(alike)
        error = (total * share * (1 - share)) ** 0.5
        assert all(abs(n - total * share) < 4 * error for n in alike.values()), alike


def test_fact_counts_match_babi():
    """1: two for each question. 2, 3: a few to more than a hundred. 4: always two."""
    spans = {}
    for number, make in STORIES.items():
        rng = Random(1)
        sizes = [len(make(rng).facts) for _ in range(200)]
        spans[number] = (min(sizes), max(sizes))
    assert spans[1] == (2, 10) and spans[4] == (2, 2)
    assert all(3 <= spans[number][0] < 10 for number in (2, 3, 5))
    assert spans[2][1] > 30 and 60 < spans[3][1] < 400 and 60 < spans[5][1] < 400


def test_facts_are_placed_as_requested():
    config = Babilong1.Config(length=8000, begin=0.5, end=0.75)
    task = Babilong1(config, material=made_prose())
    for question in task.examples(0, 20):
        places = [hit.start() / len(question.prompt) for hit in MOVE.finditer(question.prompt)]
        assert min(places) > 0.45 and max(places) < 0.8


def test_a_million_bytes_are_generated_quickly():
    task = Babilong2(Babilong2.Config(length=4_000_000), material=made_prose(documents=300))
    question = next(task.stream(UNSEEN))
    assert 3_999_900 < len(question.prompt) <= 4_000_000
    asked = question.prompt.rpartition("Question: ")[2].partition("\n")[0]
    assert read(question.prompt, asked) == question.answers[0]


def test_answer_matching():
    """The first sentence has the answer, and no other room except those in the question."""
    task = TASKS.load("babilong-3").tiny()
    question = next(
        q for q in task.stream(0) if "before the garden" in q.prompt and q.answers == ("office",)
    )
    assert "garden" not in question.choices
    texts = ["office", " It was in the office before the garden. Kitchen.", "office or kitchen", ""]
    assert task.scores(texts, [question] * 4) == [1, 1, 0, 0]
    assert task.scores(["hall\noffice"], [question]) == [0]


def test_too_short_length_is_refused():
    task = Babilong1(Babilong1.Config(length=200), material=made_prose())
    with pytest.raises(UserError, match="too short"):
        task.examples(0, 1)
    with pytest.raises(UserError, match="begin"):
        Babilong1.Config(begin=0.5, end=0.4)
