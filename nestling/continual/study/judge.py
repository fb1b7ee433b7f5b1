"""Chooses the questions worth studying, as judged by the frozen model given the passage."""

from collections.abc import Sequence

from nestling.continual.study.form import PLAIN, begun, plain
from nestling.continual.study.material import Place, Question
from nestling.continual.study.words import telling, words

# two worked examples; without them a small model hardly answers from a text
SHOTS = """Text: The lamp of Ulm weighs nine pounds and was made by Karl Voss.
Question: Who made the lamp of Ulm?
Answer: Karl Voss

Text: Every evening the guard of the tower feeds two geese.
Question: How many geese does the guard of the tower feed?
Answer: two

"""
ODD = 1.5  # nats per token; a question may be this much less likely than its sentence's best
ANSWERED = 0.15  # weight of the answer's likelihood relative to the question's
UNLIKELY = -8.0  # nats per token, lower bound of the likelihood of an answer


def told_apart(questions: Sequence[Question]) -> list[Question]:
    """The questions that only one reply answers: "What do you need?" is none, in a list.

    A reply with no other question keeps its own. Of questions without a short answer, which may
    have several, the first is kept.
    """
    replies: dict[str, list[str]] = {}
    for one in questions:
        said = replies.setdefault(one.question.lower(), [])
        if one.reply not in said:
            said.append(one.reply)
    apart = {one.reply for one in questions if len(replies[one.question.lower()]) == 1}
    return [
        one
        for one in questions
        if one.reply not in apart
        or len(said := replies[one.question.lower()]) == 1
        or (not one.answer and one.reply == said[0])
    ]


def judged(place: Place, questions: Sequence[Question]) -> list[Question]:
    """The questions with a short answer, each scored by the model.

    The score combines the log-likelihoods of the question after the passage, and of its answer
    after both, in nats per token.
    """
    head = plain(place.text, "Question:")
    lines, sizes = [], []
    for one in questions:
        form = PLAIN.format(question=one.question).removeprefix("Question:")
        asked = plain(place.text, form)
        answer = plain(place.text, f" {one.answer}")
        lines.append((head, (*asked, *answer)))
        sizes.append(len(answer))
    told = place.speaker.told(begun(place.text, f"{SHOTS}Text: {place.passage.text}\n"))
    found = []
    for one, score, size in zip(questions, place.speaker.scores(told, lines), sizes, strict=True):
        asked = float(score.nats[: len(score.nats) - size].mean())
        answered = max(float(score.nats[-size:].mean()), UNLIKELY)
        found.append(one._replace(sure=asked + ANSWERED * answered))
    return found


def chosen(
    questions: Sequence[Question], sentences: Sequence[str], *, each: int, most: int
) -> list[Question]:
    """The best questions about each sentence.

    At most ``each`` per answer and maker and ``most`` in all, without unlikely ones; and one more
    for every number and name that these do not ask for, even if unlikely.
    """
    found: list[Question] = []
    for number, sentence in enumerate(sentences):
        own = sorted(
            (one for one in questions if one.sentence == number), key=lambda one: -one.sure
        )
        taken: list[Question] = []
        for one in own:
            same = sum((o.answer, o.maker) == (one.answer, one.maker) for o in taken)
            if one.sure >= own[0].sure - ODD and same < each and len(taken) < most:
                taken.append(one)
        left = {
            word.low for word in words(sentence)[1:] if word.tells and (word.named or word.counts)
        }
        left -= {word for one in taken for word in telling(one.answer)}
        for one in own:
            asked = left.intersection(telling(one.answer))
            if asked:
                taken.append(one)
                left -= asked
        found += taken
    return found


def missing(sentences: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """Content words of a text that occur in no answer of a studied question."""
    there = {word for one in questions if not one.held for word in telling(one.answer)}
    found = [word for sentence in sentences for word in telling(sentence) if word not in there]
    return list(dict.fromkeys(found))
