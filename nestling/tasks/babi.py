"""Stories of people, rooms and things with one question each: the first five tasks of bAbI."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

PEOPLE = ("John", "Mary", "Sandra", "Daniel")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # the people in stories where things are given
ROOMS = ("bedroom", "kitchen", "garden", "hallway", "bathroom", "office")
THINGS = ("apple", "football", "milk")
GO = ("went to", "journeyed to", "travelled to", "moved to", "went back to")
GET = ("grabbed", "took", "got", "picked up")
DROP = ("dropped", "discarded", "left", "put down")
GIVE = ("gave", "passed", "handed")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Story(NamedTuple):
    """Facts in the order in which they happen, and a question about them."""

    facts: tuple[str, ...]
    question: str
    answer: str
    form: tuple[str, ...]  # the possible answers to this form of question


class World:
    """Where everybody and everything is, and how much of it the facts have told.

    Every person and thing starts in some room, which the facts do not tell. Only possible acts
    happen: people take things from the room they are in, and drop or give things they carry.
    """

    def __init__(self, rng: Random, people: tuple[str, ...] = PEOPLE):
        self.rng, self.people = rng, people
        self.room = {person: rng.choice(ROOMS) for person in people}
        self.lies = {thing: rng.choice(ROOMS) for thing in THINGS}  # rooms of free things
        self.has: dict[str, str] = {}  # thing: who has it
        self.told: dict[str, str] = {}  # person: the room that the facts tell
        self.past: dict[str, list[str]] = {thing: [] for thing in THINGS}  # rooms told, in order
        self.facts: list[str] = []

    def go(self) -> bool:
        """Let somebody go to another room."""
        person = self.rng.choice(self.people)
        room = self.rng.choice([room for room in ROOMS if room != self.room[person]])
        self.room[person] = self.told[person] = room
        self.facts.append(f"{person} {self.rng.choice(GO)} the {room}.")
        for thing, owner in self.has.items():
            if owner == person:
                self._note(thing, room)
        return True

    def get(self) -> bool:
        """Let somebody take a thing; False if there is none to take."""
        person, thing = self.rng.choice(self.people), self.rng.choice(THINGS)
        if self.lies.get(thing) != self.room[person]:
            return False
        del self.lies[thing]
        self.has[thing] = person
        there = self.rng.choice((" there", ""))
        self.facts.append(f"{person} {self.rng.choice(GET)} the {thing}{there}.")
        if person in self.told:
            self._note(thing, self.told[person])
        return True

    def drop(self) -> bool:
        """Let somebody drop a thing; False if nobody has one."""
        thing = self.rng.choice(THINGS)
        if thing not in self.has:
            return False
        person = self.has.pop(thing)
        self.lies[thing] = self.room[person]
        there = self.rng.choice((" there", ""))
        self.facts.append(f"{person} {self.rng.choice(DROP)} the {thing}{there}.")
        return True

    def give(self) -> tuple[str, str, str] | None:
        """Let somebody give a thing to somebody in the same room.

        Returns (giver, thing, receiver), or None if that is not possible.
        """
        thing, receiver = self.rng.choice(THINGS), self.rng.choice(self.people)
        giver = self.has.get(thing)
        if giver is None or giver == receiver or self.room[giver] != self.room[receiver]:
            return None
        self.has[thing] = receiver
        self.facts.append(f"{giver} {self.rng.choice(GIVE)} the {thing} to {receiver}.")
        return giver, thing, receiver

    def _note(self, thing: str, room: str) -> None:
        if self.past[thing][-1:] != [room]:
            self.past[thing].append(room)


def one_fact(rng: Random) -> Story:
    """bAbI 1: where is a person? Two moves for each of up to five questions; the last is asked."""
    world = World(rng)
    for _ in range(2 * rng.randint(1, 5)):
        world.go()
    person = rng.choice(sorted(world.told))
    return Story(tuple(world.facts), f"Where is {person}?", world.told[person], ROOMS)


def _carried(rng: Random, least: int) -> World:
    """Let things be taken, carried and dropped until one has been in ``least`` known rooms.

    As in bAbI, there is room for up to five questions, each after at least three acts.
    """
    world = World(rng)
    for _ in range(rng.randint(1, 5)):
        acts = 0
        while (
            acts < 3 or rng.random() < 0.5 or not any(len(p) >= least for p in world.past.values())
        ):
            acts += rng.choice((world.go, lambda: world.get() or world.drop()))()
    return world


def two_facts(rng: Random) -> Story:
    """bAbI 2: where is a thing that was carried?"""
    world = _carried(rng, 1)
    thing = rng.choice([thing for thing in THINGS if world.past[thing]])
    return Story(tuple(world.facts), f"Where is the {thing}?", world.past[thing][-1], ROOMS)


def three_facts(rng: Random) -> Story:
    """bAbI 3: where was a thing before it came to its present room?"""
    world = _carried(rng, 2)
    thing = rng.choice([thing for thing in THINGS if len(world.past[thing]) > 1])
    before, last = world.past[thing][-2:]
    others = tuple(room for room in ROOMS if room != last)
    return Story(tuple(world.facts), f"Where was the {thing} before the {last}?", before, others)


def two_arguments(rng: Random) -> Story:
    """bAbI 4: of three rooms in a row, which is on one side of the middle one?"""
    rooms = rng.sample(ROOMS, 3)
    way = rng.choice(tuple(OPPOSITE))

    def fact(one: str, other: str) -> str:  # ``other`` is to the ``way`` of ``one``
        if rng.getrandbits(1):
            return f"The {other} is {way} of the {one}."
        return f"The {one} is {OPPOSITE[way]} of the {other}."

    facts = [fact(rooms[0], rooms[1]), fact(rooms[1], rooms[2])]
    rng.shuffle(facts)
    answer, side = (rooms[2], way) if rng.getrandbits(1) else (rooms[0], OPPOSITE[way])
    question = rng.choice(
        (f"What is {side} of the {rooms[1]}?", f"What is the {rooms[1]} {OPPOSITE[side]} of?")
    )
    return Story(tuple(facts), question, answer, tuple(r for r in ROOMS if r != rooms[1]))


def three_arguments(rng: Random) -> Story:
    """bAbI 5: who gave what to whom, most recently?"""
    world = World(rng, GIVERS)
    given: tuple[str, str, str] | None = None
    for _ in range(rng.randint(1, 5)):
        acts, given = 0, None
        while acts < 3 or given is None:
            happened = rng.choice((world.go, world.get, world.give))()
            acts += bool(happened)
            given = happened if isinstance(happened, tuple) else None
    assert given is not None
    giver, thing, receiver = given

    def people(*but: str) -> tuple[str, ...]:
        return tuple(person for person in GIVERS if person not in but)

    forms = (
        (f"What did {giver} give to {receiver}?", thing, THINGS),
        (f"Who gave the {thing} to {receiver}?", giver, people(receiver)),
        (f"Who did {giver} give the {thing} to?", receiver, people(giver)),
        (f"Who gave the {thing}?", giver, people()),
        (f"Who received the {thing}?", receiver, people()),
    )
    return Story(tuple(world.facts), *rng.choice(forms))


STORIES: dict[int, Callable[[Random], Story]] = {
    1: one_fact,
    2: two_facts,
    3: three_facts,
    4: two_arguments,
    5: three_arguments,
}
