"""Stories of people, rooms and things, with a question each: the first five tasks of bAbI."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

PEOPLE = ("John", "Mary", "Sandra", "Daniel")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # the people of stories in which things are given
ROOMS = ("bedroom", "kitchen", "garden", "hallway", "bathroom", "office")
THINGS = ("apple", "football", "milk")
GO = ("went to", "journeyed to", "travelled to", "moved to", "went back to")
GET = ("grabbed", "took", "got", "picked up")
DROP = ("dropped", "discarded", "left", "put down")
GIVE = ("gave", "passed", "handed")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Story(NamedTuple):
    """Facts in the order in which they happened, and a question about them."""

    facts: tuple[str, ...]
    question: str
    answer: str
    form: tuple[str, ...]  # what an answer to this form of question may be


class World:
    """Who is where and has what, and which of it the facts have told.

    Everybody and everything is somewhere from the beginning, untold. Only what is possible
    happens: one takes what lies where one is, and drops or gives what one has.
    """

    def __init__(self, rng: Random, people: tuple[str, ...] = PEOPLE):
        self.rng, self.people = rng, people
        self.room = {person: rng.choice(ROOMS) for person in people}
        self.lies = {thing: rng.choice(ROOMS) for thing in THINGS}  # of things nobody has
        self.has: dict[str, str] = {}  # thing: who has it
        self.told: dict[str, str] = {}  # person: the room that the facts tell
        self.past: dict[str, list[str]] = {thing: [] for thing in THINGS}  # rooms told, in order
        self.facts: list[str] = []

    def go(self) -> bool:
        """Somebody goes to another room."""
        person = self.rng.choice(self.people)
        room = self.rng.choice([room for room in ROOMS if room != self.room[person]])
        self.room[person] = self.told[person] = room
        self.facts.append(f"{person} {self.rng.choice(GO)} the {room}.")
        for thing, owner in self.has.items():
            if owner == person:
                self._note(thing, room)
        return True

    def get(self) -> bool:
        """Somebody takes a thing, if there is one."""
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
        """Somebody drops a thing, if they have one."""
        thing = self.rng.choice(THINGS)
        if thing not in self.has:
            return False
        person = self.has.pop(thing)
        self.lies[thing] = self.room[person]
        there = self.rng.choice((" there", ""))
        self.facts.append(f"{person} {self.rng.choice(DROP)} the {thing}{there}.")
        return True

    def give(self) -> tuple[str, str, str] | None:
        """Somebody gives a thing to somebody in the same room, if possible: who, what, to whom."""
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
    """bAbI 1: where is somebody? Two moves for each of up to five questions; the last is asked."""
    world = World(rng)
    for _ in range(2 * rng.randint(1, 5)):
        world.go()
    person = rng.choice(sorted(world.told))
    return Story(tuple(world.facts), f"Where is {person}?", world.told[person], ROOMS)


def _carried(rng: Random, least: int) -> World:
    """Things taken, carried and dropped until one has been told in ``least`` rooms.

    As in bAbI up to five questions might have been asked, each after three acts or more.
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
    """bAbI 3: where was a thing before it came to where it is?"""
    world = _carried(rng, 2)
    thing = rng.choice([thing for thing in THINGS if len(world.past[thing]) > 1])
    before, last = world.past[thing][-2:]
    others = tuple(room for room in ROOMS if room != last)
    return Story(tuple(world.facts), f"Where was the {thing} before the {last}?", before, others)


def two_arguments(rng: Random) -> Story:
    """bAbI 4: three rooms in a row; which lies on one side of the middle one?"""
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
    """bAbI 5: who gave what to whom, the last time?"""
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
