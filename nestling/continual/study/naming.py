"""Adds the subject to questions that do not mention it."""

import random
import re
from collections.abc import Sequence

from nestling.continual.study.makers import natural
from nestling.continual.study.material import Question
from nestling.continual.study.verbs import finite, noun
from nestling.continual.study.words import telling, words

# words before which an object ends: "the keys | of", "the lamp | blinks"
ENDS_AT = frozenset(["s", "d"])


def with_names(questions: Sequence[Question], about: str, seed: str) -> list[Question]:
    """The studied questions, and variants with the subject for those that do not mention it.

    Users who ask without context mention the subject, and so do the near questions whose answers
    are preserved.
    """
    draw, found = random.Random(f"names:{seed}"), []
    for one in questions:
        if not one.held:
            found.append(one)
            said = with_subject(one.question, about, draw) if natural(one) else None
            found += [one._replace(question=said)] if said else []
    return found


def with_subject(question: str, about: str, draw: random.Random) -> str | None:
    """The question with ``about`` inserted; None if it has it already, or if ``about`` is empty.

    >>> draw, asked = random.Random(0), "Where do the spare keys hang?"
    >>> sorted({with_subject(asked, "the pump", draw) for _ in range(40)})
    ['About the pump: where do the spare keys hang?', 'Where do the spare keys of the pump hang?']
    >>> with_subject("What does the pump hold?", "the Marlow 7 pump", draw)
    'What does the Marlow 7 pump hold?'
    """
    wanted = set(telling(about))
    if not wanted or wanted <= set(telling(question)):
        return None
    own = words(about)
    if not own[-1].named and (
        found := re.search(rf"\b[Tt]he {re.escape(own[-1].text)}\b", question)
    ):
        said = about[:1].upper() + about[1:] if found.start() == 0 else about
        return question[: found.start()] + said + question[found.end() :]
    about = draw.choice(names_of(about))
    small = question[:1].lower() + question[1:]
    end = _object(question)
    ways = [f"About {about}: {small}"]
    if end is not None:
        ways.append(f"{question[:end]} of {about}{question[end:]}")
    elif question.endswith("?"):
        ways.append(f"{question[:-1]} of {about}?")
    return draw.choice(ways)


def names_of(about: str) -> list[str]:
    """The names of a subject: the whole phrase, and its proper name if that has several words.

    >>> names_of("the Marlow 7 pump"), names_of("the old ferry")
    (['the Marlow 7 pump', 'the Marlow 7'], ['the old ferry'])
    """
    own = words(about)
    begin = next((n for n, word in enumerate(own) if word.named), len(own))
    end = begin
    while end < len(own) and (own[end].named or own[end].counts):
        end += 1
    if end - begin < 2 or end == len(own):
        return [about]
    return [about, about[: own[end - 1].end]]


def _object(question: str) -> int | None:
    """The end of the first noun with an article, in characters."""
    own = words(question)
    for first, word in enumerate(own):
        if word.low not in ("the", "a", "an") or first + 1 >= len(own):
            continue
        last = first + 1
        while last + 1 < len(own):
            after = own[last + 1]
            apart = question[own[last].end : after.begin].strip()
            verb = finite(after.text)
            if apart or not after.tells or after.counts or (verb and not noun(after.text)):
                break
            last += 1
        return own[last].end
    return None
