"""Invented languages: a vocabulary and word order that no model can know beforehand."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from nestling.data import Pair
from nestling.tasks.words import ADJECTIVES, NOUNS

VERBS = {
    "sees": "saw", "carries": "carried", "finds": "found", "paints": "painted",
    "follows": "followed", "sells": "sold", "hides": "hid", "washes": "washed",
}  # fmt: skip
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


class Thing(NamedTuple):
    """A noun phrase: a noun with its adjective and number."""

    noun: str
    adjective: str
    plural: bool

    @property
    def english(self) -> str:
        """The phrase in English."""
        return f"the {self.adjective} {self.noun}{'s' if self.plural else ''}"


class Language:
    """One language: words of two or three syllables, with its own endings and word order.

    The name seeds the order of subject, verb and object, the place of the adjective, the plural
    ending, and the word that marks the past tense.
    """

    def __init__(self, name: str, nouns: int = 24, adjectives: int = 12):
        rng = Random(f"language:{name}")
        self.name = name
        self.nouns = rng.sample([n for n in NOUNS if n[-1] not in "sxyhf" and n != "goose"], nouns)
        self.adjectives = rng.sample(ADJECTIVES, adjectives)
        known = [*self.nouns, *self.adjectives, *VERBS]
        words: set[str] = set()
        while len(words) < len(known):
            words.add("".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))))
        shuffled = sorted(words)
        rng.shuffle(shuffled)
        self.lexicon = dict(zip(known, shuffled, strict=True))
        self.order = rng.sample(("subject", "verb", "object"), 3)
        self.adjective_first = rng.random() < 0.5
        self.plural, self.past = (rng.choice(SYLLABLES) + end for end in ("n", "l"))

    def phrase(self, thing: Thing) -> str:
        """The phrase in this language."""
        noun = self.lexicon[thing.noun] + (self.plural if thing.plural else "")
        parts = [self.lexicon[thing.adjective], noun]
        return " ".join(parts if self.adjective_first else reversed(parts))

    def sentence(self, rng: Random) -> Pair:
        """Draw a sentence with its English translation."""
        one, other = (
            Thing(rng.choice(self.nouns), rng.choice(self.adjectives), rng.random() < 0.4)
            for _ in range(2)
        )
        verb, past = rng.choice(tuple(VERBS)), rng.random() < 0.4
        action = (self.past + " " if past else "") + self.lexicon[verb]
        parts = {"subject": self.phrase(one), "verb": action, "object": self.phrase(other)}
        text = " ".join(parts[part] for part in self.order).capitalize() + "."
        now = (verb.removesuffix("s") if verb[-3:] != "ies" else "carry") if one.plural else verb
        now = "wash" if now == "washe" else now
        meaning = f"{one.english} {VERBS[verb] if past else now} {other.english}."
        return Pair(text, meaning.capitalize(), self.name)

    def glossary(self) -> Iterator[Pair]:
        """Yield every word with its translation, in a fixed random order."""
        entries = sorted(self.lexicon.items())
        Random(f"glossary:{self.name}").shuffle(entries)
        return (Pair(word, meaning, self.name) for meaning, word in entries)
