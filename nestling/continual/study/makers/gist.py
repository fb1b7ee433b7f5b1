"""Questions about the subject of the whole document."""

from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies

FORMS = ("What do you know about {about}?", "What is {about}?", "Tell me about {about}.")


class Gist(Maker):
    """Asks about the subject; the reply is the first sentence, with the next one if it is short."""

    def make(self, place: Place) -> list[Question]:
        """One question per form, for the first passage of the document."""
        passage = place.passage
        if passage.begin or not passage.about:
            return []
        first = replies(passage)[:2]
        reply = " ".join(first) if len(first[0]) < 80 else first[0]
        return [Question(form.format(about=passage.about), "", reply, "gist", 0) for form in FORMS]
