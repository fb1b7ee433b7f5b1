"""Related words for the words of a sentence: kinds of things, and synonyms.

Users do not know the words of the text: they ask for a spice rather than for cinnamon. The frozen
model provides related words, given worked examples and the sentence.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from nestling.continual.study.form import begun, plain
from nestling.continual.study.passages import Passage
from nestling.continual.study.speaker import Speaker
from nestling.continual.study.words import spans, telling, words
from nestling.continual.text import Text

KINDS = """Sentence: Clara plays the cello in the orchestra of Rome.
cello: an instrument
Rome: a city

Sentence: Mr Weiss, the baker, sold blue lamps to the harbour office in May.
Mr Weiss: a person
blue: a colour
lamps: things that give light
harbour office: a place
May: a month

Sentence: Rub the joint with tallow and never use Sika tape near a horse.
tallow: a fat
Sika tape: a material
horse: an animal

"""
SAME = """Sentence: Clara purchased the cello in Rome.
purchased: bought, got, paid for
cello: instrument, strings

Sentence: Mr Weiss mends the lamps each May and stores them in the shed.
mends: repairs, fixes, works on
stores: keeps, puts, leaves

Sentence: The fee is reduced for pupils.
fee: price, cost, money
reduced: lower, less, smaller
pupils: students, children, school

"""
KIND = re.compile(
    r"\s*(?:an?|the)\s+([a-z][a-z-]*(?:\s[a-z][a-z-]*)?)"
    r"(?=\s(?:that|who|of|in|for|with|used)\b|[.,;]|\s*$)"
)
LONGEST = 8  # tokens of the model's reply for a word, at most
# kinds that add nothing to a question word
EMPTY = frozenset(["thing", "things", "person", "people", "time", "number", "place", "way", "kind"])


class Related:
    """Words related to those in the sentences of a passage, computed on first use.

    Without a speaker there are none.
    """

    def __init__(self, passage: Passage, speaker: Speaker | None, text: Text | None):
        self.passage, self.speaker, self.text = passage, speaker, text

    @cached_property
    def kinds(self) -> list[dict[str, str]]:
        """For each sentence: the kinds of its parts, if the model knows them."""
        wanted = [
            [part.text for part in spans(line) if not words(part.text)[0].counts]
            for line in self.passage.sentences
        ]
        return [
            {part: kind for part, said in found.items() if (kind := _kind(part, said))}
            for found in self._said(KINDS, wanted)
        ]

    @cached_property
    def others(self) -> list[dict[str, tuple[str, ...]]]:
        """For each sentence: words that could replace its words."""
        wanted = [
            [w.text for w in words(line) if w.tells and not w.counts and not (w.named and w.begin)]
            for line in self.passage.sentences
        ]
        return [
            {word: same for word, said in found.items() if (same := _same(said, line))}
            for found, line in zip(self._said(SAME, wanted), self.passage.sentences, strict=True)
        ]

    def _said(self, examples: str, wanted: Sequence[Sequence[str]]) -> list[Mapping[str, str]]:
        """The model's replies for parts of each sentence."""
        speaker, text = self.speaker, self.text
        if speaker is None or text is None:
            return [{} for _ in wanted]
        lines = [plain(text, f"Sentence: {line}\n") for line in self.passage.sentences]
        names = [list(dict.fromkeys(parts)) for parts in wanted]
        said = speaker.said(
            speaker.told(begun(text, examples)),
            [plain(text, f"{part}:") for parts in names for part in parts],
            most=LONGEST,
            stop=frozenset(plain(text, "\n")),
            after=[line for line, parts in zip(lines, names, strict=True) for _ in parts],
        )
        words_said = iter(map(text.decode, said))
        return [{part: next(words_said) for part in parts} for parts in names]


def _kind(part: str, said: str) -> str:
    """The noun phrase at the start of a reply, without its article; "" if it is not informative.

    >>> _kind("swan", " a large bird that swims"), _kind("oven", "an oven")
    ('large bird', '')
    """
    match = KIND.match(said)
    if not match or match[1] in EMPTY or set(telling(match[1])) & set(telling(part)):
        return ""
    return match[1] if telling(match[1]) else ""


def _same(said: str, line: str) -> tuple[str, ...]:
    """The words of a list that are not in the sentence, without the last, which may be cut off.

    >>> _same(" made, created, made, a lot", "He built it.")
    ('made', 'created')
    """
    own = set(telling(line))
    parts = [part.strip() for part in said.split(",")]
    whole = parts if said.rstrip().endswith((".", ",")) or len(parts) < 3 else parts[:-1]
    fit = [p for p in whole if re.fullmatch(r"[a-z]+( [a-z]+)?", p) and not set(telling(p)) & own]
    return tuple(dict.fromkeys(p for p in fit if telling(p)))[:2]
