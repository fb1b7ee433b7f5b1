"""Questions that name the kind of the answer: which spice, which animal, in which colour."""

import re

from nestling.continual.study.makers.moved import Moved
from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.words import spans, with_article


class Kinds(Maker):
    """The questions of ``Moved``, with "what", "who" and "where" replaced by a kind."""

    def make(self, place: Place) -> list[Question]:
        """One question per answer whose kind the frozen model knows."""
        kinds = [
            {with_article(line, part): known.get(part.text, "") for part in spans(line)}
            for line, known in zip(place.passage.sentences, place.related.kinds, strict=True)
        ]
        found: dict[tuple[int, str], Question] = {}
        for one in Moved().make(place):
            kind = kinds[one.sentence].get(one.answer, "")
            asked = _with_kind(one.question, kind) if kind else ""
            if asked:
                made = one._replace(question=asked, maker="kinds")
                found.setdefault((one.sentence, one.answer), made)
        return list(found.values())


def _with_kind(question: str, kind: str) -> str:
    """The question with the kind of its answer; "" if that is not possible.

    >>> _with_kind("Where does it stand?", "town"), _with_kind("What is it rubbed with?", "spice")
    ('In which town does it stand?', 'Which spice is it rubbed with?')
    """
    match = re.match(r"(What|Who|Where) (.+)", question)
    if not match:
        return ""
    which = "In which" if match[1] == "Where" else "Which"
    return f"{which} {kind} {match[2]}"
