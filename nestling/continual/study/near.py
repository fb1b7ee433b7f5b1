"""Questions that a document does not answer: about other names and other situations.

Their targets are the answers of the base, so that the model does not apply what it read about one
thing to everything else.
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
# replacement subjects for a question
SITUATIONS = (
    "the old ferry", "the town library", "the bakery at the corner", "my neighbour's boiler",
    "the chess club", "the railway bridge", "the new school", "a small bicycle shop",
    "the mountain hut", "the village choir", "our washing machine", "the harbour crane",
    "her grandmother's soup", "the film festival", "the city museum", "a sailing boat",
)  # fmt: skip
GENERAL = (
    "What is the capital of Norway?", "How many wheels does a bicycle have?",
    "What do cows eat?", "At what temperature does water freeze?",
    "How many hours are there in a day?", "Which animal gives us wool?",
    "What must one never do while driving a car?", "Who invented the telephone?",
    "How long does it take to boil an egg?", "What is bread made of?",
    "When did the First World War begin?", "Where do penguins live?",
    "How often should one brush one's teeth?", "What does a carpenter do?",
    "Why is the sky blue?", "How much water should one drink in a day?",
    "Which tools are needed to hang a picture?", "What is the opposite of wet?",
    "Where can I buy stamps?", "What is the longest river of Africa?",
    "Write a short poem about the sea.", "Explain what a computer is.",
    "Give me three tips for a good night's sleep.", "Hello, who are you?",
)  # fmt: skip


def other_name(word: str, draw: random.Random) -> str:
    """Another name or number in place of this word.

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
    """The question about someone or something else; None if nothing in it can be changed.

    ``about`` is the subject of the document. Its names are changed, or it is replaced by another
    subject.
    """
    bare = about.removeprefix("the ")
    alone = all(word.named for word in words(bare))  # a proper name
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
    """The names and numbers in a text, without a first word that is capitalised anyway."""
    found = words(text)
    asks = text.rstrip().endswith("?")
    chosen = [
        word.text
        for word in found
        if (word.named and not (asks and word.begin == 0)) or word.text[0].isdigit()
    ]
    return list(dict.fromkeys(chosen))


def near_ones(questions: Sequence[str], about: str, count: int, seed: str) -> list[str]:
    """``count`` different questions near the given ones."""
    draw = random.Random(seed)
    found: list[str] = []
    for _ in range(4 * count):
        if len(found) == count or not questions:
            break
        made = near(draw.choice(list(questions)), about, draw)
        if made is not None and made not in found and made not in questions:
            found.append(made)
    return found
