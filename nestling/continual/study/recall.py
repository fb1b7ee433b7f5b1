"""Answers from what was studied: recites sentences and takes the best match for the question.

A studied document is stored in the weights as sentences, which the model recites when asked its own
questions (``recite``). Three scores decide which of them answers a user's question: how well it
covers the words of the question, literally or in meaning (``alike``), the likelihood of the
question after it under the frozen model, and its likelihood after the question under the studied
one. If the best fits poorly and others are as good, the model says so where the question names the
subject of a document that was new to it, and otherwise answers as before study.

Source: arXiv 1611.02554 (the noisy channel: how likely is the question, given the reply). Deviates:
words of the subject do not count, since every sentence is about it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nestling.continual.study.alike import meant, shared
from nestling.continual.study.answer_type import counted, may_answer
from nestling.continual.study.body import Ids
from nestling.continual.study.correction import as_before, corrects
from nestling.continual.study.definition import asks_for_all, has_name, introducing
from nestling.continual.study.form import PLAIN, begun, plain
from nestling.continual.study.recite import Asked, Sentence
from nestling.continual.study.record import Studied
from nestling.continual.study.routing import concerned, related
from nestling.continual.study.speaker import Speaker
from nestling.continual.study.words import telling, words
from nestling.continual.text import Text

if TYPE_CHECKING:
    from nestling.continual.study.study import School

# worked examples of questions that paraphrase their text
REWORDED = """Text: the lamp of Ulm. It weighs nine pounds and was made by Karl Voss in a week.
Question: Which craftsman produced the lamp of Ulm?
Answer: Karl Voss

Text: the tower of Brill. Every evening the guard feeds two geese, which sleep under the stairs.
Question: At what time of day do the birds of the tower of Brill get their food?
Answer: in the evening

Text: Olga Marr. After the flood of 1906 she lost her shop and sold ribbons on the pier to live.
Question: How did Olga Marr earn money once her business was gone?
Answer: she sold ribbons

"""
ALIKE = 20.0  # nats per word of the question found in a reply
SHARE = 0.4  # weight of the reply's own likelihood in its score
LEAD = 0.2  # weight of the lead over the next reply in the confidence
SURE = 2.3  # minimum confidence of the best reply, nats
UNNAMED = 5.0  # nats more if the question does not name the subject of a document
COUNTS = 5.0  # nats more of a fit for a number with what a question asks the number of
CLOSE = 8.0  # nats within which two replies answer about as well
EMPTY = "It is so."  # a reply without content
READ = "I have read about {about}."
UNSAID = "I do not find that in what I have read about {about}."
MOST = 96  # tokens of all that is known of a subject
UNKNOWN = 0.1  # share of a document's own questions that the base may have answered before study


class Reply(NamedTuple):
    """A studied sentence as a reply to a question."""

    ids: Ids
    alike: float  # how many words of the question it covers, by similarity
    fit: float  # log-likelihood of the question after it, relative to EMPTY, nats
    nats: float  # its log-likelihood after the question
    source: str = ""  # name of its document
    document: str = ""  # checksum of its document
    text: str = ""  # the sentence

    @property
    def worth(self) -> float:
        """How well it answers the question, nats."""
        return ALIKE * self.alike + self.fit + SHARE * self.nats


class Answer(NamedTuple):
    """A model's answer to a question."""

    text: str
    source: str | None  # the document it is from or about; None: answered as before study


@torch.no_grad()
def answered(school: "School", question: str, tokens: int) -> Answer:
    """The answer of a model that has studied, of at most ``tokens`` tokens.

    Raises UserError for an empty question.
    """
    learner = school.learner
    prompt = learner.text.prompt(question, school.talk.chat)
    reply = recall(school, question)
    if reply is not None:
        return Answer(learner.text.decode(reply.ids[:tokens]).strip(), reply.source)
    given = torch.tensor([prompt], device=learner.device)
    base = learner.weights(studied=())
    said = learner.reader.generate(base, given, do_sample=False, max_new_tokens=tokens)
    return Answer(learner.text.decode(said[0].tolist()).strip(), None)


@torch.no_grad()
def recall(school: "School", question: str) -> Reply | None:
    """The reply to a question; None: the model should answer as before study.

    About a subject that the base does not know, the reply may be that it was not said.
    """
    learner = school.learner
    if asks_for_all(question):
        return subjects(learner.text, learner.state.studied)
    documents = concerned(question, learner.state.studied)
    whole = introduced(school, question, documents)
    if whole is not None:
        return whole
    before = learner.weights(studied=())
    topics = {word for one in documents for word in one.topic}
    subject = subject_of(question, [one.about for one in documents], topics)
    named = {word for one in documents for word in telling(one.about)}
    least = SURE if named.intersection(telling(question)) else SURE + UNNAMED
    said = [pair for one in documents for pair in likely(school, question, one)]
    found = replies(school, question, subject, said, before)
    chosen = best(found, least)
    if chosen is None:
        return unsaid(learner.text, question, documents)
    return latest(chosen, found, learner.state.studied, question)


def subjects(text: Text, studied: Sequence[Studied]) -> Reply | None:
    """The subjects of all documents, as many as fit; None if nothing was studied."""
    about = list(dict.fromkeys(one.about or one.label for one in studied))
    if not about:
        return None
    for count in range(len(about), 0, -1):
        left = [f"{len(about) - count} more"] if count < len(about) else []
        *first, last = [*about[:count], *left]
        told = READ.format(about=f"{', '.join(first)} and {last}" if first else last)
        ids = plain(text, told)
        if len(ids) <= MOST:
            break
    sources = dict.fromkeys(one.label for one in studied)
    return Reply(ids, 0.0, 0.0, 0.0, ", ".join(sources), text=told)


def introduced(school: "School", question: str, documents: Sequence[Studied]) -> Reply | None:
    """The answer to a definition question: as many of its sentences as fit. None for any other."""
    text, studied = school.learner.text, school.learner.state.studied
    said = introducing(text, question, studied, documents, partial(school.recital.of, school))
    if not said:
        return None
    ids, count = said[0].ids[:-1], 1
    while count < len(said):
        longer = plain(text, " ".join(line.text.strip() for line in said[: count + 1]))
        if len(longer) > MOST:
            break
        ids, count = longer, count + 1
    sources = ", ".join(dict.fromkeys(line.source for line in said[:count]))
    return Reply(ids, 0.0, 0.0, 0.0, sources, said[0].document, text.decode(ids))


def unsaid(text: Text, question: str, documents: Sequence[Studied]) -> Reply | None:
    """That nothing was found about the subject of a document; None if the base may know.

    The base may know unless the question has a whole name from the subject, of which some word is
    several tokens, and a word of what else the subject has ("the harbour choir of Sandwick"); and
    unless it answered next to none of the document's own questions before study.
    """
    if not question.rstrip().endswith("?"):
        return None
    for one in documents:
        right, of = one.figures.get("right_before", 0.0), one.figures.get("asked", 0.0)
        if of and right <= UNKNOWN * of and has_name(text, question, one.about):
            ids = plain(text, UNSAID.format(about=one.about))
            return Reply(ids, 0.0, 0.0, 0.0, one.label, one.sha256)
    return None


def likely(school: "School", question: str, document: Studied) -> list[tuple[Sentence, float]]:
    """The sentences of a document that may answer a question, and their log-likelihoods after it.

    Those that lack what the question asks for, such as a number, are left out.
    """
    can = [one for one in school.recital.of(school, document) if may_answer(question, one.text)]
    if not can:
        return []
    weights = school.learner.weights_of(document)
    scores = Asked(school.speaker, school.talk, question, weights).scores(one.ids for one in can)
    return [(one, float(scores[one.ids].nats.sum())) for one in can]


def best(replies: Sequence[Reply], least: float = SURE) -> Reply | None:
    """The best reply; None if its confidence is below ``least`` nats.

    The confidence is high if the question fits it and no other scores as well.
    """
    order = sorted(replies, key=lambda one: -one.worth)
    if not order:
        return None
    next_worth = order[1].worth if len(order) > 1 else 0.0
    sure = order[0].fit + LEAD * (order[0].worth - next_worth)
    return order[0] if sure >= least else None


def latest(
    chosen: Reply, replies: Sequence[Reply], studied: Sequence[Studied], question: str
) -> Reply:
    """The reply of the latest document about the same subject that answers about as well.

    So what a later text corrects wins, also one that answers less well but says the same with
    another value (``corrects``). A sentence that says that all is as before is no correction: what
    an earlier document says is taken for it.
    """
    turn = {one.sha256: number for number, one in enumerate(studied)}
    own = turn[chosen.document]
    same = {
        one.sha256 for one in studied if one.sha256 == chosen.document or related(one, studied[own])
    }
    told = [
        one
        for one in replies
        if one.document in same
        and (
            one.worth >= chosen.worth - CLOSE
            or corrects(one.text, chosen.text, question, studied[own].about)
        )
        and not as_before(one.text)
    ]
    if as_before(chosen.text):
        told = [one for one in told if turn[one.document] < own]
    else:
        told = [one for one in told if turn[one.document] > own]
    return max(told, key=lambda one: (turn[one.document], one.worth), default=chosen)


def replies(
    school: "School",
    question: str,
    subject: str,
    likely: Sequence[tuple[Sentence, float]],
    before: Mapping[str, Tensor],
) -> list[Reply]:
    """Sentences, with their log-likelihoods after a question, as replies to it.

    ``before`` are the weights before study.
    """
    if not likely:
        return []
    sentences = [one for one, _ in likely]
    speaker, form, reader = school.speaker, school.talk, school.learner.reader
    about = [word.low for word in words(subject)]
    alike = shared(meant(reader, form.text, question), [one.meant for one in sentences], about)
    fits = _fits(speaker, form.text, question, subject, [one.text for one in sentences], before)
    return [
        Reply(
            one.ids[:-1],
            same,
            fit + COUNTS * counted(question, one.text),
            nats,
            one.source,
            one.document,
            one.text,
        )
        for (one, nats), same, fit in zip(likely, alike, fits, strict=True)
    ]


def subject_of(question: str, subjects: Iterable[str], topics: Iterable[str] = ()) -> str:
    """The subject of a question: the document subjects that share a word with it, and its names.

    Also its words in ``topics``, which say what documents without a title are about.

    >>> subject_of("Where does the pump of Ada Voss stand?", ["the Marlow 7 pump", "the ferry"])
    'the Marlow 7 pump, Ada, Voss'
    >>> subject_of("Who tuned the harp?", [], ["harp", "thank"])
    'harp'
    """
    asked = set(telling(question))
    found = [one for one in dict.fromkeys(subjects) if asked.intersection(telling(one))]
    there = {word for one in found for word in telling(one)}
    known = set(topics)
    named = [
        word.text
        for word in words(question)[1:]
        if (word.named or word.low in known) and word.low not in there
    ]
    return ", ".join([*found, *named])


def _fits(
    speaker: Speaker,
    text: Text,
    question: str,
    subject: str,
    said: Sequence[str],
    weights: Mapping[str, Tensor],
) -> list[float]:
    """Log-likelihood of a question after each reply, relative to one without content, nats."""
    head = f"Text: {subject}. " if subject else "Text: "
    asked = plain(text, PLAIN.format(question=question).removeprefix("Question:"))
    counted = torch.tensor(_apart(text, asked, subject))
    told = speaker.told(begun(text, REWORDED), weights)
    pairs = [(plain(text, f"{head}{reply}\nQuestion:"), asked) for reply in (*said, EMPTY)]
    scores = speaker.scores(told, pairs, weights)
    *found, none = [float(one.nats[counted].sum()) for one in scores]
    return [nats - none for nats in found]


def _apart(text: Text, ids: Ids, subject: str) -> list[bool]:
    """Whether each token is outside the words of a subject."""
    own = {word.low for word in words(subject)}
    ends = [len(text.decode(ids[: n + 1])) for n in range(len(ids))]
    inside = [(word.begin, word.end) for word in words(text.decode(ids)) if word.low in own]
    begins = [0, *ends]
    return [
        not any(begin < last and first < end for first, last in inside)
        for begin, end in zip(begins, ends, strict=False)
    ]
