"""Smart-home commands labelled with their intent, drawn from Home Assistant's templates."""

import json
import re
import zipfile
from collections.abc import Iterator
from random import Random
from typing import Any

from nestling.data.pypi import archive
from nestling.data.sets import Labelled, Report, TextSet
from nestling.data.templates import Sampler

RELEASE = "home-assistant-intents==2026.10.27"
SHA256 = "256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40"
EACH = 200  # sentences of a class, at most
TRIES = 8  # draws for each sentence wanted, since many draws repeat an earlier one
# fillers for slots that the templates leave open; numbers come from the ranges in the data
OPEN = {
    "area": "kitchen, attic, bedroom, garage, hallway, office, bathroom, cellar, nursery, garden",
    "floor": "ground floor, first floor, second floor, basement, top floor",
    "name": "reading lamp, ceiling fan, front door, back door, coffee machine, radiator, "
    "garden hose, night light, left curtain, television, heater, bookshelf lamp, gate, skylight",
    "message": "dinner is ready, the guests are here, time for bed, we leave in five minutes, "
    "please come downstairs, the parcel has arrived",
    "search_query": "quiet piano, rain sounds, summer songs, the evening news, old jazz",
    "zone": "work, school, the gym, the library, home",
    "timer_name": "pasta, laundry, tea, bread, workout, nap",
    "timer_command": "turn off the oven, open the blinds, lock the front door, stop the music",
    "shopping_list_item": "milk, apples, flour, soap, rice, batteries, coffee, onions",
    "todo_list_item": "water the plants, pay the rent, call the plumber, feed the cat",
    "todo_list_name": "weekend, garden, holiday, chores",
}


def lists(data: dict[str, Any]) -> dict[str, list[str]]:
    """The possible fillers of each slot: words from the data, numbers, or ``OPEN``."""
    found = {name: words.split(", ") for name, words in OPEN.items()}
    for name, about in data["lists"].items():
        if "values" in about:
            found[name] = [v if isinstance(v, str) else v["in"] for v in about["values"]]
        elif "range" in about:
            span = about["range"]
            numbers = range(span["from"], span["to"] + 1, span.get("step", 1))
            found[name] = [str(number) for number in numbers]
    return found


def label(intent: str, about: dict[str, Any]) -> str:
    """The intent and its kind of slots, in words.

    >>> label("HassTurnOn", {"metadata": {"slot_combination": "area_domain"}})
    'turn on area domain'
    """
    words = re.findall(r"[A-Z][a-z]*", intent.removeprefix("Hass"))
    slots = about.get("metadata", {}).get("slot_combination", "").split("_")
    return " ".join([*words, *slots]).lower().strip()


def sentences(data: dict[str, Any], each: int = EACH) -> Iterator[Labelled]:
    """Distinct sentences of every class, at most ``each``, none that occurs in two classes."""
    sampler = Sampler(data["expansion_rules"], lists(data))
    templates: dict[str, list[str]] = {}
    for intent, groups in data["intents"].items():
        for group in groups["data"]:
            templates.setdefault(label(intent, group), []).extend(group["sentences"])
    drawn: dict[str, str] = {}
    doubtful = set()
    for name in sorted(templates):
        rng, own = Random(f"intents:{name}"), set()
        for _ in range(TRIES * each):
            if len(own) == each:
                break
            try:
                own.add(sampler.draw(rng.choice(templates[name]), rng))
            except KeyError:  # a list that neither the data nor OPEN fills
                continue
        for text in sorted(own):
            doubtful |= {text} if drawn.setdefault(text, name) != name else set()
    for text, name in sorted(drawn.items(), key=lambda item: (item[1], item[0])):
        if text and text not in doubtful:
            yield Labelled(text, name)


def make(report: Report) -> Iterator[Labelled]:
    """Fetch the templates and draw English sentences from them."""
    report(f"fetching {RELEASE} ...")
    with archive(RELEASE, SHA256, wheel=True) as path, zipfile.ZipFile(path) as members:
        data = json.loads(members.read("home_assistant_intents/data/en.json"))
    yield from sentences(data)


INTENTS = TextSet(
    name="intents",
    summary="smart-home commands with their intents, drawn from Home Assistant's templates",
    licence="Apache-2.0",
    record=Labelled,
    make=make,
)
