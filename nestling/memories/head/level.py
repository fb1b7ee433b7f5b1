"""The head of a language model as a level of its nested system."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.state import Layout
from nestling.core.transfer import Transfer
from nestling.memories.head.chunk import chunk
from nestling.memories.head.step import HeadState, step
from nestling.memories.order import along, valid_first
from nestling.memories.parts import unit

PIECE = 16  # periods read at a time where the logits of most positions are not asked for


class HeadLevel(nn.Module):
    """Adds to the logits of a head what it would have learned from the document so far.

    In every document, once in ``period`` tokens, one step of gradient descent on the loss of the
    next token, of rate 1 and for a head that reads keys of length one:

        D <- D + sum over the period of k_t (onehot(x_{t+1}) - p_t)^T,    k_t = h_t / |h_t|
        logits_t = W h_t + lambda D^T k_t,                                p_t = softmax(logits_t)

    D begins at zero, lambda is learned and begins at 1. p_t is the prediction that was made, with
    the D of its period; no gradient flows through what is written.

    Source: arXiv 2512.24695, section 4 (Eq 7-9: back-propagation writes pairs of input and local
    surprise), as a level that is written in context. Deviates: the paper's head is frozen there.
    Cost: a state of hidden size times vocabulary for each row; see chunk.py.
    """

    def __init__(self, hidden_size: int, period: int):
        super().__init__()
        self.hidden_size, self.period = hidden_size, period
        self.read_strength = nn.Parameter(torch.ones(()))
        self._layouts: dict[int, Layout] = {}  # of its state, by the size of the vocabulary

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set lambda to 1."""
        nn.init.ones_(self.read_strength)

    def init_state(self, batch: int, vocabulary: int) -> HeadState:
        """Nothing learned."""
        strength = self.read_strength
        wide = torch.promote_types(strength.dtype, torch.float32)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=wide, device=strength.device)

        return HeadState(
            zeros(self.hidden_size, vocabulary),
            zeros(self.period, self.hidden_size),
            zeros(self.period, vocabulary),
            torch.zeros(batch, dtype=torch.long, device=strength.device),
        )

    def verify(self, state: HeadState, rows: int, vocabulary: int) -> None:
        """Raise UserError for a state that is not of ``rows`` rows of this head."""
        if torch.compiler.is_compiling():
            return
        if vocabulary not in self._layouts:
            with torch.no_grad():
                example = self.init_state(1, vocabulary)
            self._layouts[vocabulary] = Layout(type(self).__name__, example)
        self._layouts[vocabulary].verify(state, B=rows)

    def forward(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Float[Tensor, "B T K"],
        ids: Int[Tensor, "B T"],
        state: HeadState,
        flow: Flow = Flow(),
        *,
        last: int = 0,  # positions whose logits are wanted, counted from the end; 0: all
    ) -> tuple[Float[Tensor, "B L V"], HeadState]:
        """Logits of the next token, and the state after; ``head`` maps hidden states to its own.

        Without gradients the logits exist a few periods at a time where few are wanted.
        """
        length = hidden.shape[1]
        skipped = length - last if 0 < last < length else 0
        size = PIECE * self.period
        if torch.is_grad_enabled():
            logits, state = self._read(head, hidden, ids, state, flow)
            return logits[:, skipped:], state
        for start in range(0, skipped, size):
            part = slice(start, min(start + size, skipped))
            _, state = self._read(head, hidden[:, part], ids[:, part], state, _cut(flow, part))
        rest = slice(skipped, length)
        return self._read(head, hidden[:, rest], ids[:, rest], state, _cut(flow, rest))

    def _read(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Float[Tensor, "B T K"],
        ids: Int[Tensor, "B T"],
        state: HeadState,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T V"], HeadState]:
        if not hidden.shape[1]:
            return head(hidden), state
        if hidden.shape[1] == 1:
            return self._read_token(head, hidden, ids, state, flow)
        order = None
        if flow.mask is not None:
            order = valid_first(flow)
            hidden, ids = along(hidden, order), ids.gather(1, order)
            flow = flow._replace(mask=flow.mask.gather(1, order))
        logits, state = chunk(
            state, keys=self._keys(hidden), logits=head(hidden), ids=ids,
            strength=self.read_strength, flow=flow,
        )  # fmt: skip
        return logits if order is None else along(logits, order.argsort(1)), state

    def _read_token(
        self,
        head: Callable[[Tensor], Tensor],
        hidden: Float[Tensor, "B 1 K"],
        ids: Int[Tensor, "B 1"],
        state: HeadState,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B 1 V"], HeadState]:
        logits, state = step(
            state,
            key=self._keys(hidden)[:, 0],
            logits=head(hidden)[:, 0],
            ids=ids[:, 0],
            strength=self.read_strength,
            reset=None if flow.reset is None else flow.reset[:, 0],
            mask=None if flow.mask is None else flow.mask[:, 0],
        )
        return logits[:, None], state

    def _keys(self, hidden: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
        return unit(hidden.to(torch.promote_types(hidden.dtype, self.read_strength.dtype)))

    def level(self, vocabulary: int) -> Level:
        """Its box in the nested system."""
        return Level(
            name="head",
            period=self.period,
            parameters=self.hidden_size * vocabulary,
            per_sequence=True,
            objective="next-token prediction",
            rule="gradient descent, rate 1",
            context="hidden states of length one and the errors of the predictions made from them",
            transfer=(
                Transfer(
                    kind="direct", partner="weights", what="its answer is added to the head's"
                ),
                Transfer(
                    kind="context generation",
                    partner="weights",
                    what="the model makes its keys and its errors",
                ),
            ),
        )


def _cut(flow: Flow, part: slice) -> Flow:
    return Flow(*(None if x is None else x[:, part] for x in flow))
