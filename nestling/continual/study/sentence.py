"""Makes sentences self-contained: they name their subject, or come with the one before."""

from nestling.continual.study.english import named
from nestling.continual.study.passages import Passage, under
from nestling.continual.study.pronouns import EARLY, depends
from nestling.continual.study.words import words

LONGEST = 45  # words of two sentences that are said together


def replies(passage: Passage) -> list[str]:
    """What is said of each sentence of a passage.

    After its heading, with the subject for an initial pronoun that means it. One that begins with
    a word for something in the sentence before is said together with that one, for both.
    """
    own = [alone(*one) for one in zip(passage.sentences, passage.subjects, strict=True)]
    heads = passage.heads or [""] * len(own)
    found = [under(head, line) for head, line in zip(heads, own, strict=True)]
    joint = False
    for number, needs in enumerate(depends(passage.sentences, passage.subjects)):
        pair = " ".join(found[number - 1 : number + 1])
        joint = needs and not joint and not heads[number] and len(words(pair)) <= LONGEST
        if joint:
            found[number - 1 : number + 1] = pair, pair
    return found


def alone(sentence: str, about: str) -> str:
    """Replace an initial pronoun by the subject.

    >>> alone("It leaks.", "the pump"), alone("In snow it stops.", "the pump")
    ('The pump leaks.', 'In snow the pump stops.')
    """
    if not words(about):
        return sentence
    found = named(sentence, about)
    if match := EARLY.match(sentence):
        found = f"{sentence[: match.start(2)]}{named(match[2], about)}"
    return found[:1].upper() + found[1:]
