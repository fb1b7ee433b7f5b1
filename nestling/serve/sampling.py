"""Sample the next token, with a generator of its own for each answer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NONE = -1  # no token


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling options; temperature 0 takes the most likely token."""

    temperature: float = 0.0
    top_p: float = 1.0  # the smallest set of tokens with this share of the probability
    top_k: int = 0  # tokens; 0: all
    seed: int = 0


class Draw:
    """Chooses the tokens of one answer, independently of others in the batch."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Float[Tensor, "V"]) -> int:
        """Choose a token from the logits; NONE if they are not finite."""
        options = self.sampling
        if options.temperature <= 0:
            return int(logits.argmax())
        logits = logits.float().cpu() / options.temperature
        if options.top_k and options.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(options.top_k).values[-1], -torch.inf)
        values, order = torch.softmax(logits, -1).sort(descending=True, stable=True)
        if not values[0] > 0:  # not a number
            return NONE
        before = values.cumsum(-1) - values
        values = values.masked_fill(before >= options.top_p, 0.0)
        return int(order[torch.multinomial(values, 1, generator=self._generator)])
