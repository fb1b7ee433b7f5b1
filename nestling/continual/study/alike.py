"""How well a sentence covers the words of a question, literally or in meaning.

Words are compared by the frozen model's hidden states in context; several depths together work
better than one.

Source: arXiv 2004.12832 (late interaction: each word of a query with its best match). Deviates: the
states are those of a causal language model, nothing is trained, and the depths are averaged.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.study.form import begun, plain
from nestling.continual.study.words import words
from nestling.continual.text import Text
from nestling.models.functional import FunctionalModel

DEPTHS = 8  # at which states are taken, evenly spaced


class Meant(NamedTuple):
    """The content words of a line, and their states in it."""

    words: tuple[str, ...]  # in lower case
    states: Float[Tensor, "W D H"]  # by depth


@torch.no_grad()
def meant(reader: FunctionalModel, text: Text, line: str) -> Meant:
    """Read a line with the frozen model; the state of a word is the mean over its tokens."""
    own = words(line)
    cuts = [0, *(word.begin for word in own[1:]), len(line)]
    pieces = [f" {line[a:b].strip()}" for a, b in zip(cuts, cuts[1:], strict=False)]
    ids, ends = list(begun(text, pieces[0])), [0]
    for n, piece in enumerate(pieces):
        ids += plain(text, piece) if n else ()
        ends.append(len(ids))
    telling = [n for n, word in enumerate(own) if word.tells]
    if not telling:
        return Meant((), torch.zeros(0, DEPTHS, 1))
    given = torch.tensor([ids], device=reader.model.device)
    every = reader.model(input_ids=given, output_hidden_states=True, use_cache=False).hidden_states
    step = -(-(len(every) - 1) // DEPTHS)
    states = torch.stack([row[0].float() for row in every[:-1:step]], 1)
    found = [states[ends[n] : ends[n + 1]].mean(0) for n in telling]
    return Meant(tuple(own[n].low for n in telling), torch.stack(found))


def shared(question: Meant, sentences: Sequence[Meant], without: Sequence[str] = ()) -> list[float]:
    """How well each sentence covers a question: the sum over its words of their best match.

    Similarity is the cosine of two states, relative to those of all words of the sentences. Words
    in ``without``, in lower case, do not count, unless there are no others.
    """
    left = [n for n, word in enumerate(question.words) if word not in without]
    left = left or list(range(len(question.words)))
    every = [one.states for one in sentences if one.words]
    if not left or not every:
        return [0.0] * len(sentences)
    whole = torch.cat(every)
    mean, spread = whole.mean(0), whole.std(0, correction=0).clamp(min=1e-6)

    def directions(states: Tensor) -> Tensor:
        return torch.nn.functional.normalize((states - mean) / spread, dim=-1)

    asked = directions(question.states[left])

    def in_one(sentence: Meant) -> float:
        likeness = torch.einsum("qdh,wdh->qwd", asked, directions(sentence.states))
        return float(likeness.amax(1).mean(1).sum())

    return [in_one(one) if one.words else 0.0 for one in sentences]
