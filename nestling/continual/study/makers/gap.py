"""Sentences with a gap, in any language."""

from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies
from nestling.continual.study.words import spans, with_article, words


class Gap(Maker):
    """Asks to complete each sentence with one part left out."""

    def make(self, place: Place) -> list[Question]:
        """One question per part, in the order of the text."""
        passage, found = place.passage, []
        for number, (sentence, reply) in enumerate(
            zip(passage.sentences, replies(passage), strict=True)
        ):
            for span in spans(sentence):
                if span.last - span.first + 1 >= len(words(sentence)):
                    continue
                answer = with_article(sentence, span)
                begin = sentence.index(answer)
                question = f"{sentence[:begin]}___{sentence[begin + len(answer) :]}"
                found.append(Question(f"Fill the gap: {question}", answer, reply, "gap", number))
        return found
