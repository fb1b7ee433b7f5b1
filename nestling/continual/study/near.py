"""Questions that a document has not answered: of other names and other situations.

Their answers are those the base gives; held to them, a model does not say of everybody what it
read of somebody.
"""

import random
import re
from collections.abc import Sequence

from nestling.continual.study.words import words

SYLLABLES = [
    "ba",
    "ke",
    "lo",
    "mu",
    "ri",
    "so",
    "ta",
    "ven",
    "dor",
    "mil",
    "pas",
    "tur",
    "gel",
    "han",
    "fen",
    "wick",
    "ros",
    "lin",
]
ENDS = ["l", "n", "r", "s", "t"]
# what a question may be about instead
SITUATIONS = (
    "the old ferry", "the town library", "the bakery at the corner", "my neighbour's boiler",
    "the chess club", "the railway bridge", "the new school", "a small bicycle shop",
    "the mountain hut", "the village choir", "our washing machine", "the harbour crane",
    "her grandmother's soup", "the film festival", "the city museum", "a sailing boat",
)  # fmt: skip
GENERAL = (
    "What is the capital of Italy?", "How many legs does a spider have?",
    "What do bees make?", "At what temperature does water freeze?",
    "How many months are there in a year?", "Which planet do we live on?",
    "What must one never do while driving a car?", "Who painted the Mona Lisa?",
    "How long does it take to boil an egg?", "What is bread made of?",
    "When did the First World War begin?", "Where do penguins live?",
    "How often should one brush one's teeth?", "What does a carpenter do?",
    "Why is the sky blue?", "How much water should one drink in a day?",
    "Which tools are needed to hang a picture?", "What is the opposite of hot?",
    "Where can I buy stamps?", "What is the longest river of Africa?",
    "Write a short poem about the sea.", "Explain what a computer is.",
    "Give me three tips for a good night's sleep.", "Hello, who are you?",
)  # fmt: skip


def other_name(word: str, draw: random.Random) -> str:
    """A word like this one that stands for something else: a name or a number.

    >>> other_name("1987", random.Random(0)) != "1987"
    True
    """
    if any(letter.isdigit() for letter in word):
        return re.sub(r"\d", lambda digit: _other_digit(digit.group(), draw), word)
    made = "".join(draw.sample(SYLLABLES, 2)) + draw.choice(ENDS)
    return made.upper() if word.isupper() and len(word) > 1 else made.capitalize()


def _other_digit(digit: str, draw: random.Random) -> str:
    return draw.choice([d for d in "123456789" if d != digit])


def near(question: str, about: str, draw: random.Random) -> str | None:
    """The question about somebody or something else; None if nothing in it can be changed.

    ``about`` is what the document is about. Its names are changed, or it gives way to another
    situation.
    """
    bare = about.removeprefix("the ")
    alone = all(word.named for word in words(bare))  # somebody's name, or that of a place
    if bare in question and not alone and (draw.random() < 0.4 or not _names(bare)):
        phrase = about if about in question else bare
        return question.replace(phrase, draw.choice(SITUATIONS))
    names = _names(question)
    if not names:
        return None
    for name in names:
        question = re.sub(rf"\b{re.escape(name)}\b", other_name(name, draw), question)
    return question


def _names(text: str) -> list[str]:
    """Names and numbers of a text, but for a first word that is any."""
    found = words(text)
    asks = text.rstrip().endswith("?")
    chosen = [
        word.text
        for word in found
        if (word.named and not (asks and word.begin == 0)) or word.text[0].isdigit()
    ]
    return list(dict.fromkeys(chosen))


def near_ones(questions: Sequence[str], about: str, count: int, seed: str) -> list[str]:
    """So many questions near those, each once."""
    draw = random.Random(seed)
    found: list[str] = []
    for _ in range(4 * count):
        if len(found) == count or not questions:
            break
        made = near(draw.choice(list(questions)), about, draw)
        if made is not None and made not in found and made not in questions:
            found.append(made)
    return found
