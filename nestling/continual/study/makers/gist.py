"""What the document is about, as a whole."""

from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies

FORMS = ("What do you know about {about}?", "What is {about}?", "Tell me about {about}.")


class Gist(Maker):
    """Questions about the subject itself; the first sentence, with the next if it is short."""

    def make(self, place: Place) -> list[Question]:
        """One for each form, of the passage that begins the document."""
        passage = place.passage
        if passage.begin or not passage.about:
            return []
        first = replies(passage)[:2]
        reply = " ".join(first) if len(first[0]) < 80 else first[0]
        return [Question(form.format(about=passage.about), "", reply, "gist", 0) for form in FORMS]
