"""Questions made of a few words of a sentence in any order, since users' questions share some
words with the sentence, whatever their wording."""

import random

from nestling.continual.study.english import kinds_of
from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.passages import Passage
from nestling.continual.study.sentence import replies
from nestling.continual.study.verbs import forms_of
from nestling.continual.study.words import Span, Word, spans, telling, with_article, words

EACH = 12  # questions per sentence
FORMS = (
    "{kind} {keys} {the}?",
    "{kind} {the} {keys}?",
    "{kind} is {the} {keys}?",
    "{the}: {kind} {keys}?",
    "{kind} does {the} {keys}?",
    "{kind} {keys}?",
    "{kind} is {keys} of {the}?",
)
SHARES = (0.5, 0.8, 1.0)  # share of a sentence's words in a question
MOST = 5  # such words, at most
MIXED = 0.3  # share of the questions with their words in another order
OTHER = 0.4  # share of the words replaced by others: brushed for brush, fixed for mended


class Keyed(Maker):
    """Asks for each part of a sentence with random words from the rest.

    The questions are not English; they teach that any words of a sentence, in any order, lead to
    it.
    """

    natural = False

    def make(self, place: Place) -> list[Question]:
        """``EACH`` questions per sentence that has something to ask for."""
        passage, found = place.passage, []
        draw = random.Random(f"keyed:{place.seed}")
        pairs = zip(passage.sentences, replies(passage), strict=True)
        for number, (sentence, reply) in enumerate(pairs):
            parts = fit(sentence, passage)
            for count in range(EACH if parts else 0):
                part = parts[count] if count < len(parts) else draw.choice(parts)
                question = _asked(sentence, part, place, number, draw)
                if question is not None:
                    answer = with_article(sentence, part)
                    found.append(Question(question, answer, reply, "keyed", number))
        return list(dict.fromkeys(found))


def fit(sentence: str, passage: Passage) -> list[Span]:
    """The parts of a sentence worth asking for: neither the subject of the text nor verbs.

    A single word that ends in -ed counts as a verb.
    """
    about, own = set(telling(passage.about)), words(sentence)
    found = []
    for span in spans(sentence):
        inside = own[span.first : span.last + 1]
        if all(word.low in about for word in inside):
            continue
        if len(inside) == 1 and not inside[0].counts and inside[0].low.endswith("ed"):
            continue
        found.append(span)
    return found


def _asked(sentence: str, part: Span, place: Place, number: int, draw: random.Random) -> str | None:
    """A question for a part of a sentence; None if no words are left to ask with."""
    passage = place.passage
    own, about = words(sentence), set(telling(passage.about))
    rest = [
        word
        for number, word in enumerate(own)
        if not part.first <= number <= part.last and word.tells and word.low not in about
    ]
    share = draw.choice(SHARES)
    keys = [word for word in rest if draw.random() < share] or rest[:1]
    keys = _nearest(keys, own[part.first], own[part.last])
    if not keys and not about:
        return None
    if draw.random() < MIXED:
        draw.shuffle(keys)
    others = place.related.others[number]
    text = " ".join(_said(word, others.get(word.text, ()), draw) for word in keys)
    kinds = kinds_of(part, own)[:2]
    if known := place.related.kinds[number].get(part.text):
        kinds += [f"Which {known}", f"What {known}"]
    kind = draw.choice(kinds)
    question = draw.choice(FORMS).format(kind=kind, keys=text, the=passage.about)
    question = " ".join(question.split()).replace(" ?", "?").strip(": ")
    return question[:1].upper() + question[1:]


def _said(word: Word, same: tuple[str, ...], draw: random.Random) -> str:
    """A word as used in a question, perhaps replaced by another."""
    if word.named and word.begin > 0:
        return word.text
    others = () if word.counts else (*forms_of(word.low), *same)
    return draw.choice(others) if others and draw.random() < OTHER else word.low


def _nearest(keys: list[Word], first: Word, last: Word) -> list[Word]:
    """The words nearest to a part, in text order."""

    def away(word: Word) -> int:
        return max(first.begin - word.end, word.begin - last.end)

    kept = sorted(keys, key=away)[:MOST]
    return [word for word in keys if word in kept]
