"""The surprise of each piece of a text: the loss of every token, with its characters."""

from typing import NamedTuple

from nestling.continual.learner import ContinualLearner


class Piece(NamedTuple):
    """A token's characters and its loss."""

    text: str
    nats: float | None  # None: no context to predict it from


def surprise(learner: ContinualLearner, text: str) -> list[Piece]:
    """The loss of a document, token by token, under the current learner; nothing is learned."""
    ids = learner.text.encode(text)
    if not ids:
        return []
    losses = [None, *learner.losses(ids)[0].tolist()]
    return list(map(Piece, pieces(learner, text, ids), losses))


def pieces(learner: ContinualLearner, text: str, ids: list[int]) -> list[str]:
    """The characters of each token, in order; special tokens have none."""
    tokenizer = learner.text.tokenizer
    if not tokenizer.is_fast:
        return [learner.text.decode([one]) for one in ids]
    found = tokenizer(text, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in found["offset_mapping"]]
    last = max((place for place, end in enumerate(ends) if end), default=-1)
    begin, parts = 0, []
    for place, end in enumerate(ends):
        end = len(text) if place == last else max(begin, end)
        parts.append(text[begin:end])
        begin = end
    return parts
