"""Keys of the head's level, computed from the hidden state and the last two tokens."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nestling.core.memory import Flow
from nestling.memories.parts import document_starts, unit, valid_lengths

KEYS = ("hidden", "context")  # what keys are computed from
TOKENS = 0.3  # initial length of a token's part of a key; the hidden state's is 1


class ContextKeys(nn.Module):
    """Keys and strengths from the hidden state, the token and the token before it."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.token, self.before = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.read_gate = nn.Linear(width, 1, bias=False)
        self.write_gate = nn.Linear(width, 1)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Identity for the hidden state, random maps for the tokens, and gates of 1."""
        nn.init.eye_(self.hidden.weight)
        for linear in (self.token, self.before):
            nn.init.normal_(
                linear.weight, std=TOKENS / linear.in_features**0.5, generator=generator
            )
        for gate in (self.read_gate, self.write_gate):
            nn.init.zeros_(gate.weight)
        nn.init.zeros_(self.write_gate.bias)

    def forward(
        self,
        hidden: Float[Tensor, "B T K"],
        token: Float[Tensor, "B T K"],
        before: Float[Tensor, "B T K"],
    ) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T 1"], Float[Tensor, "B T 1"]]:
        """Keys of length one, and their strengths for reading and for writing."""
        key = unit(self.hidden(unit(hidden)) + self.token(token) + self.before(before))
        return key, self.read_gate(hidden).exp(), 2 * self.write_gate(hidden).sigmoid()


def shifted(
    x: Float[Tensor, "B T E"], previous: Float[Tensor, "B E"], flow: Flow
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E"]]:
    """x at the previous position, and the one to pass to the next call; valid positions come first.

    Zero before a document. ``previous`` is constant: gradients stay within a call.
    """
    padded = torch.cat([previous[:, None].to(x.dtype), x], dim=1)
    before, length = padded[:, :-1], x.shape[1]
    if flow.reset is not None:
        before = before.masked_fill(flow.reset[..., None], 0)
    with torch.no_grad():
        ends = _ends(flow, x)
        after = padded.gather(1, ends[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        if (starts := document_starts(flow, length)) is not None:
            # a document that begins at a masked position has no token yet
            after = after.masked_fill((ends <= starts[:, -1])[:, None], 0)
    return before, after.to(previous.dtype)


def _ends(flow: Flow, x: Float[Tensor, "B T E"]) -> Int[Tensor, " B"]:
    """The number of positions up to the last valid one."""
    ends = valid_lengths(flow, x.shape[1])
    return torch.full((len(x),), x.shape[1], device=x.device) if ends is None else ends
