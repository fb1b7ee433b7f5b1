"""Questions that name something from a sentence, in any language with words."""

import random

from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies
from nestling.continual.study.words import denied, spans, with_article

FORMS = (
    "What do you know about {part}?",
    "Tell me about {part}.",
    "What about {part}?",
    "What can you say of {part}?",
    "What is said about {part}?",
)
DENIED = (
    "What must never happen, and what is not allowed, with {part}?",
    "What is not so with {part}?",
)
FORBIDDEN = ("What must never be done with {part}?", "What is not allowed with {part}?")


class About(Maker):
    """Asks about the parts of each sentence; if it forbids or denies something, asks for that."""

    def make(self, place: Place) -> list[Question]:
        """Two or three questions per sentence; the reply is the sentence."""
        passage, found = place.passage, []
        draw = random.Random(f"about:{place.seed}")
        for number, (sentence, reply) in enumerate(
            zip(passage.sentences, replies(passage), strict=True)
        ):
            parts = [with_article(sentence, span) for span in spans(sentence)]
            for part in draw.sample(parts, min(2, len(parts))):
                question = draw.choice(FORMS).format(
                    part=part[:1].lower() + part[1:]
                    if part[:4] in ("The ", "An ") or part[:2] == "A "
                    else part
                )
                found.append(Question(question, "", reply, "about", number))
            if denied(sentence):
                question = draw.choice(FORBIDDEN).format(part=passage.about)
                found.append(Question(question, "", reply, "about", number))
        return found
