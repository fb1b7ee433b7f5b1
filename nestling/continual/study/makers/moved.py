"""Questions by moving the words of a sentence: what is asked for gives way to a question word."""

from nestling.continual.study.english import HELPS, asked, brief, clauses
from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies
from nestling.continual.study.words import Span, Word, spans, with_article, words

FORMS = 2  # of a question for one answer that are judged, the shortest first


class Moved(Maker):
    """For each number, name and content word of an English sentence, in a few forms.

    Source: overgenerate and rank (Heilman and Smith, NAACL 2010). Deviates: no parser.
    """

    def make(self, place: Place) -> list[Question]:
        """Those of shorter clauses come first."""
        found: list[Question] = []
        passage = place.passage
        for number, (sentence, reply) in enumerate(
            zip(passage.sentences, replies(passage), strict=True)
        ):
            seen: set[tuple[str, str]] = set()
            own = words(sentence)
            for span in spans(sentence):
                if _helped(own, span):
                    continue
                answer = with_article(sentence, span)
                for question in _questions(sentence, span, passage.about)[:FORMS]:
                    if (question, answer) not in seen and len(words(question)) > 2:
                        seen.add((question, answer))
                        found.append(Question(question, answer, reply, "moved", number))
        return found


def _helped(own: list[Word], span: Span) -> bool:
    """Whether a part is the verb behind a helping one: no question word stands for it."""
    before = own[span.first - 1].low if span.first else ""
    alone = span.first == span.last and not own[span.first].named and not own[span.first].counts
    return alone and before in HELPS | {"be", "been", "not", "never"}


def _questions(sentence: str, span: Span, about: str) -> list[str]:
    own = words(sentence)
    begin, end = own[span.first].begin, own[span.last].end
    found: list[str] = []
    for clause in reversed(clauses(sentence)):
        inside = words(clause.text)
        first = [i for i, word in enumerate(inside) if word.begin + clause.begin == begin]
        last = [i for i, word in enumerate(inside) if word.end + clause.begin == end]
        if not first or not last or len(inside) == last[0] - first[0] + 1:
            continue
        part = Span(span.text, first[0], last[0])
        found += [*brief(clause.text, part, about), *asked(clause.text, part, about)]
    return list(dict.fromkeys(found))
