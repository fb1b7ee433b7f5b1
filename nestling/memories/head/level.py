"""The head of a language model as a level of its nested system."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.named import traceable
from nestling.core.state import Layout
from nestling.core.transfer import Transfer
from nestling.memories.head.chunk import chunk
from nestling.memories.head.keys import KEYS, ContextKeys, shifted
from nestling.memories.head.step import HeadState, step
from nestling.memories.order import along, valid_first
from nestling.memories.parts import unit

PIECE = 16  # periods read at a time if the logits of most positions are not needed


class HeadLevel(nn.Module):
    """Adds to the logits of a head what it would have learned from the document so far.

    In every document, once every ``period`` tokens: one step of gradient descent with rate 1 on the
    next-token loss, for a head that reads keys of length one.

        D <- D + sum over the period of k_t (onehot(x_{t+1}) - p_t)^T,    k_t = h_t / |h_t|
        logits_t = W h_t + lambda D^T k_t,                                p_t = softmax(logits_t)

    D starts at zero; lambda is learned and starts at 1. p_t is the actual prediction, made with the
    D of its period; no gradient flows through the writes.

    With ``keys="context"`` a key also depends on the last two tokens, e being their embeddings
    scaled to length one, and both strengths are gates:

        k_t = unit(P unit(h_t) + A e_t + B e_{t-1})
        writes beta_t k_t, reads lambda_t k_t,   beta_t = 2 sigmoid(w h_t + b),
                                                 lambda_t = lambda exp(v h_t)

    P starts as the identity, A and B as random maps of three tenths of its size, the gates at 1.
    Keys and beta learn through writes that are read in the same call; the written errors are
    constants.

    With ``slots``, at least ``period``, only that many tokens have a column of D, those that were
    the last to follow another. A token that has none gets one of zeros at the end of the period in
    which it follows, and the errors of tokens without one are left out.

    Source: arXiv 2512.24695, section 4 (Eq 7-9: back-propagation writes pairs of input and local
    surprise), as a level that is written in context. Deviates: in the paper the head is fixed in
    context.
    Cost: a state of hidden size times vocabulary, or ``slots``, per row; see chunk.py.
    """

    def __init__(
        self, hidden_size: int, period: int, keys: str = KEYS[0], slots: int | None = None
    ):
        super().__init__()
        check_slots(slots, period)
        self.hidden_size, self.period, self.slots = hidden_size, period, slots
        self.read_strength = nn.Parameter(torch.ones(()))
        self.context = ContextKeys(hidden_size) if keys == "context" else None
        self._layouts: dict[int, Layout] = {}  # layouts of its state by vocabulary size

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set lambda to 1, and initialise the maps of the keys as the class says."""
        nn.init.ones_(self.read_strength)
        if self.context is not None:
            self.context.init_weights(generator)

    def init_state(self, batch: int, vocabulary: int) -> HeadState:
        """The state before a document: D is zero."""
        strength = self.read_strength
        wide = torch.promote_types(strength.dtype, torch.float32)

        def zeros(*shape: int, dtype: torch.dtype = wide) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=strength.device)

        columns = self.columns(vocabulary)
        slots = 0 if self.slots is None else columns
        return HeadState(
            zeros(self.hidden_size, columns),
            zeros(self.period, self.hidden_size),
            zeros(self.period, columns),
            zeros(self.period, dtype=torch.long),
            zeros(slots, dtype=torch.long) - 1,
            zeros(slots, dtype=torch.long) - 1,
            zeros(dtype=torch.long),
            zeros(0 if self.context is None else self.hidden_size),
        )

    def columns(self, vocabulary: int) -> int:
        """The columns of D: at most one for each token."""
        return vocabulary if self.slots is None else min(self.slots, vocabulary)

    def verify(self, state: HeadState, rows: int, vocabulary: int) -> None:
        """Raise UserError unless this is a state of ``rows`` rows of this head."""
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
        embedded: Float[Tensor, "B T K"],
        ids: Int[Tensor, "B T"],
        state: HeadState,
        flow: Flow = Flow(),
        *,
        last: int = 0,  # compute the logits of this many last positions; 0: of all
    ) -> tuple[Float[Tensor, "B L V"], HeadState]:
        """Logits of the next token, and the new state; ``head`` maps hidden states to its logits.

        ``embedded`` are the tokens as the model's first block gets them. Without gradients and with
        ``last``, logits are computed a few periods at a time to save memory.
        """
        length, ids = hidden.shape[1], ids.long()
        skipped = length - last if 0 < last < length else 0
        size = PIECE * self.period
        if torch.is_grad_enabled():
            logits, state = self._read(head, Tokens(hidden, embedded, ids, flow), state)
            return logits[:, skipped:], state
        every = Tokens(hidden, embedded, ids, flow)
        for start in range(0, skipped, size):
            part = slice(start, min(start + size, skipped))
            _, state = self._read(head, every.cut(part), state)
        return self._read(head, every.cut(slice(skipped, length)), state)

    def _read(
        self, head: Callable[[Tensor], Tensor], tokens: "Tokens", state: HeadState
    ) -> tuple[Float[Tensor, "B T V"], HeadState]:
        if not tokens.ids.shape[1]:
            return head(tokens.hidden), state
        order = None
        if tokens.flow.mask is not None and tokens.ids.shape[1] > 1:
            order = valid_first(tokens.flow)
            tokens = tokens.along(order)
        keys, previous = self._keys(tokens, state.previous)
        form = self._read_token if tokens.ids.shape[1] == 1 else self._read_all
        logits = head(tokens.hidden)
        with torch.autocast(logits.device.type, enabled=False):  # all in the state's dtype
            logits, state = form(logits, tokens, keys, state)
        state = state._replace(previous=previous)
        return logits if order is None else along(logits, order.argsort(1)), state

    def _read_all(
        self, logits: Float[Tensor, "B T V"], tokens: "Tokens", keys: "Keys", state: HeadState
    ) -> tuple[Float[Tensor, "B T V"], HeadState]:
        return chunk(
            state, queries=keys.read, keys=keys.written, logits=logits, ids=tokens.ids,
            flow=tokens.flow, learned=self.context is not None,
        )  # fmt: skip

    def _read_token(
        self, logits: Float[Tensor, "B 1 V"], tokens: "Tokens", keys: "Keys", state: HeadState
    ) -> tuple[Float[Tensor, "B 1 V"], HeadState]:
        flow = tokens.flow
        y, state = step(
            state,
            query=keys.read[:, 0],
            key=keys.written[:, 0],
            logits=logits[:, 0],
            ids=tokens.ids[:, 0],
            reset=None if flow.reset is None else flow.reset[:, 0],
            mask=None if flow.mask is None else flow.mask[:, 0],
        )
        return y[:, None], state

    def _keys(
        self, tokens: "Tokens", previous: Float[Tensor, "B E"]
    ) -> tuple["Keys", Float[Tensor, "B E"]]:
        wide = torch.promote_types(tokens.hidden.dtype, self.read_strength.dtype)
        hidden = tokens.hidden.to(wide)
        if self.context is None:
            key = unit(hidden)
            return Keys(key * self.read_strength, key), previous
        embedded = unit(tokens.embedded.to(wide))
        before, previous = shifted(embedded, previous, tokens.flow)
        key, read, written = self.context(hidden, embedded, before)
        return Keys(key * (self.read_strength * read), key * written), previous

    def level(self, vocabulary: int) -> Level:
        """Its box in the nested system."""
        keys = "hidden states of length one"
        if self.context is not None:
            keys = "keys of hidden states and the last two tokens"
        return Level(
            name="head",
            period=self.period,
            parameters=self.hidden_size * self.columns(vocabulary),
            per_sequence=True,
            objective="next-token prediction",
            rule="gradient descent, rate 1",
            context=f"{keys} and the errors of the predictions made from them",
            transfer=(
                Transfer(
                    kind="direct", partner="weights", what="its output is added to the head's"
                ),
                Transfer(
                    kind="context generation",
                    partner="weights",
                    what="the model computes its keys and errors",
                ),
            ),
        )


def check_slots(slots: int | None, period: int) -> None:
    """Raise UserError if the tokens of a period may need more columns than there are."""
    if slots is not None and slots < period:
        raise UserError(
            f"head_slots is {slots}, fewer than the {period} tokens of head_period, each of which "
            "may need one; give as many at least"
        )


@traceable
class Tokens(NamedTuple):
    """The inputs of each token."""

    hidden: Float[Tensor, "B T K"]
    embedded: Float[Tensor, "B T K"]
    ids: Int[Tensor, "B T"]
    flow: Flow

    def cut(self, part: slice) -> "Tokens":
        """The tokens of a slice."""
        flow = Flow(*(None if x is None else x[:, part] for x in self.flow))
        return Tokens(self.hidden[:, part], self.embedded[:, part], self.ids[:, part], flow)

    def along(self, order: Int[Tensor, "B T"]) -> "Tokens":
        """The tokens in an order that moves only masked positions."""
        assert self.flow.mask is not None
        flow = self.flow._replace(mask=self.flow.mask.gather(1, order))
        hidden, embedded = along(self.hidden, order), along(self.embedded, order)
        return Tokens(hidden, embedded, self.ids.gather(1, order), flow)


@traceable
class Keys(NamedTuple):
    """Keys for reading and for writing, scaled by their strengths."""

    read: Float[Tensor, "B T K"]
    written: Float[Tensor, "B T K"]
