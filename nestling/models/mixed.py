"""Generate from a mixture of several sets of weights of one model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.mixture import even, followed, updated
from nestling.models.functional import FunctionalModel


class Followed:
    """A logits processor for transformers' ``generate``: the mixture's next-token distribution.

    ``experts`` are complete sets of the weights that differ. Each reads the text in its own
    context; the generating model's logits are used only to rule out tokens. For one sequence.
    """

    def __init__(
        self, reader: FunctionalModel, experts: Sequence[Mapping[str, Tensor]], share: float
    ):
        self.reader, self.experts, self.share = reader, experts, share
        self._contexts: list[Any] = [None] * len(experts)
        self._last: Float[Tensor, "K V"] | None = None  # log-probabilities of the next token
        self._weights = even(len(experts), reader.model.device)
        self._read = 0  # tokens

    @torch.no_grad()
    def __call__(
        self, input_ids: Int[Tensor, "1 T"], scores: Float[Tensor, "1 V"]
    ) -> Float[Tensor, "1 V"]:
        """Log-probabilities of the token after ``input_ids``, continuing from the previous call."""
        new = input_ids[:, self._read :]
        parts = []
        for index, weights in enumerate(self.experts):
            logits, context = self.reader.read(weights, new, self._contexts[index])
            self._contexts[index] = context
            parts.append(torch.log_softmax(logits[0].float(), -1).double())
        given = torch.stack(parts)  # [K, T, V]
        if self._last is not None:
            self._weights = updated(self._weights, self._last[:, new[0, 0]], self.share)
        within = given[:, :-1].gather(2, new[:, 1:, None].expand(len(given), -1, 1))
        _, self._weights = followed(within[..., 0], self.share, self._weights)
        self._last, self._read = given[:, -1], input_ids.shape[1]
        mixed = torch.logsumexp(self._weights[:, None] + self._last, 0)[None].to(scores.dtype)
        return mixed.masked_fill(scores == -torch.inf, -torch.inf)  # tokens that are ruled out


def generate_mixed(
    reader: FunctionalModel,
    experts: Sequence[Mapping[str, Tensor]],
    ids: Int[Tensor, "1 T"],
    share: float,
    **generation: Any,
) -> Int[Tensor, "1 L"]:
    """Generate token ids after ``ids`` from the mixture, with the options of ``generate``.

    Cost: per token, one forward pass of every expert and one of the generating model.
    """
    mixture = Followed(reader, experts, share)
    return reader.generate({}, ids, logits_processor=[mixture], **generation)
