"""Questions of the study ``many-documents``: facts, choices among sentences, and known things."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nestling.continual.learner import ContinualLearner
from nestling.continual.stream import read_alone
from nestling.continual.study.examine import holds
from nestling.continual.study.form import begun, plain
from nestling.continual.study.recite import Asked
from nestling.data import load_corpus
from nestling.data.bigbench import read
from nestling.tasks import Question
from nestling.tasks.facts import KINDS
from nestling_lab.studies.continual.facts import drawn
from nestling_lab.studies.continual.told_texts import right

TOKENS = 40  # of an answer, at most
# questions of general knowledge and the values that count as right
GENERAL = (
    ("What is the capital of France?", ("Paris",)),
    ("What is the capital of Japan?", ("Tokyo",)),
    ("What is the capital of Italy?", ("Rome",)),
    ("Which planet do we live on?", ("Earth",)),
    ("Which star is at the center of our solar system?", ("Sun",)),
    ("How many legs does a spider have?", ("eight", "8")),
    ("How many days are there in a week?", ("seven", "7")),
    ("How many months are there in a year?", ("twelve", "12")),
    ("How many continents are there?", ("seven", "7")),
    ("Who wrote Romeo and Juliet?", ("Shakespeare",)),
    ("Who painted the Mona Lisa?", ("Leonardo", "da Vinci")),
    ("Who was the first president of the United States?", ("Washington",)),
    ("What is the opposite of hot?", ("cold",)),
    ("What do bees make?", ("honey",)),
    ("What is the chemical symbol of oxygen?", ("O",)),
    ("Which gas do plants take from the air?", ("carbon dioxide", "CO2")),
    ("What is frozen water called?", ("ice",)),
    ("Which animal is known as the king of the jungle?", ("lion",)),
    ("What is the largest ocean on Earth?", ("Pacific",)),
    ("In which country are the pyramids of Giza?", ("Egypt",)),
    ("What language is spoken in Brazil?", ("Portuguese",)),
    ("What color do you get when you mix blue and yellow?", ("green",)),
    ("At what temperature does water boil?", ("100", "212")),
    ("What is 2 plus 2?", ("four", "4")),
)


class Fact(NamedTuple):
    """A question about a document, its answer, and the sentence that says it."""

    ask: str
    value: str
    choices: tuple[str, ...]  # among them the value
    sentence: str
    stranger: str  # the question about somebody in no document
    other: str  # that sentence about them
    kind: int  # index in nestling.tasks.facts.KINDS


def facts(seed: int, number: int) -> tuple[str, list[Fact]]:
    """A document of six facts about one person, and the questions about it."""
    one, others, stranger = drawn(seed, number)
    person, told = one.text.removeprefix("About ").split("\n", 1)
    found = []
    for own, other in zip(one.questions, others, strict=True):
        [value] = own.answers
        [sentence] = [s for s in re.findall(r"[^.]+\.", told) if holds(s, value)]
        kind = next(n for n, kind in enumerate(KINDS) if set(own.choices) <= set(kind.values))
        about = sentence.strip()
        found.append(
            Fact(
                _bare(own), value, own.choices, about, _bare(other),
                about.replace(person, stranger), kind,
            )
        )  # fmt: skip
    return one.text, found


def _bare(question: Question) -> str:
    """A question as a user would ask it."""
    return question.prompt.removeprefix("Question: ").split("\n")[0]


def replies(
    learner: ContinualLearner, asked: Sequence[Fact], *, strange: bool = False, check: bool = True
) -> list[list[Any]]:
    """For each question: the value, the reply, and whether the reply holds it.

    ``strange`` asks about somebody in no document; without ``check`` it is the likeliest reply.
    """
    questions = [fact.stranger if strange else fact.ask for fact in asked]
    said = [learner.ask(question, tokens=TOKENS, check=check) for question in questions]
    return [[f.value, a, holds(a, f.value)] for f, a in zip(asked, said, strict=True)]


def margins(learner: ContinualLearner, asked: Sequence[Fact], strange: bool = False) -> list[float]:
    """The log-likelihood of each fact's sentence minus the greatest with another choice, nats.

    All as replies to its question, in chat where the model has a template; ``strange`` asks about
    somebody in no document.
    """
    found = []
    for fact in asked:
        said = fact.other if strange else fact.sentence
        nats = _likelihoods(
            learner,
            fact.stranger if strange else fact.ask,
            [_swapped(said, fact.value, choice) for choice in fact.choices],
        )
        own = fact.choices.index(fact.value)
        found.append(nats[own] - max(nats[:own] + nats[own + 1 :]))
    return found


def bound(learner: ContinualLearner, documents: Sequence[Sequence[Fact]]) -> list[bool]:
    """Whether a name chooses its own value rather than that of another document, for each pair."""
    found = []
    for facts in documents:
        for fact in facts:
            theirs = [
                other.value
                for others in documents
                for other in others
                if other.kind == fact.kind and other.value != fact.value
            ]
            said = [_swapped(fact.sentence, fact.value, value) for value in (fact.value, *theirs)]
            own, *rest = _likelihoods(learner, fact.ask, said)
            found += [own > nats for nats in rest]
    return found


def _swapped(sentence: str, value: str, other: str) -> str:
    return re.sub(rf"\b{value}\b", other, sentence)


@torch.no_grad()
def _likelihoods(learner: ContinualLearner, question: str, said: Sequence[str]) -> list[float]:
    """The log-likelihood of each reply to a question, in nats."""
    school = learner.school
    ids = [school.talk.answer(one) for one in said]
    weights = learner.weights_for(question)
    scores = Asked(school.speaker, school.talk, question, weights).scores(ids)
    return [float(scores[one].nats.sum()) for one in ids]


def known(learner: ContinualLearner, config: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of before: losses of held-out text, general and social questions."""
    texts = {
        name: "\n".join(load_corpus(name).held_out)[: config["probe"]] for name in config["known"]
    }
    every = learner.weights()
    said = [learner.ask(asked, tokens=TOKENS) for asked, _ in GENERAL[: config["general"]]]
    return {
        "losses": {name: learner.score(text).loss for name, text in texts.items()},
        "together": {name: loss_with(learner, text, every) for name, text in texts.items()},
        "general": [
            [asked, reply, right(reply, accept)]
            for (asked, accept), reply in zip(GENERAL, said, strict=False)
        ],
        "social": social(learner, config["social"]),
    }


@torch.no_grad()
def loss_with(learner: ContinualLearner, text: str, weights: Mapping[str, Tensor]) -> float:
    """The loss of a text with certain weights, nats per token."""
    ids = tuple(learner.text.encode(text))
    return float(read_alone(learner.reader, weights, ids, learner.sizes, learner.device).mean())


@torch.no_grad()
def social(learner: ContinualLearner, count: int) -> list[bool]:
    """Whether the likeliest choice per character is right, for the first social_iqa questions.

    In the format of lm-eval, which calls this acc_norm.
    """
    school, text, found = learner.school, learner.text, []
    for item in read("social_iqa")[:count] if count else ():
        weights = learner.weights_for(item.question)
        told = school.speaker.told(begun(text, f"Q: {item.question}\nA"), weights)
        pairs = [(plain(text, ":"), plain(text, f" {choice}")) for choice in item.choices]
        scores = school.speaker.scores(told, pairs, weights)
        each = [
            float(score.nats.sum()) / len(choice)
            for score, choice in zip(scores, item.choices, strict=True)
        ]
        found.append(each.index(max(each)) == item.answer)
    return found
