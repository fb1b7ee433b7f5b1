"""Long short-term memory: gates computed from the last output decide what the cells keep."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.transfer import Transfer
from nestling.memories.parts import matrix

INITIAL_STD = 0.02


@traceable
class LSTMState(NamedTuple):
    """The state of a row, at least float32."""

    hidden: Float[Tensor, "B D"]
    cell: Float[Tensor, "B D"]


class LSTM(Memory):
    """One layer of long short-term memory as wide as the stream, and a projection back.

        i, f, g, o = W_x x_t + W_h h_{t-1} + b        (torch's order)
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t),   y_t = W h_t

    The gates read h_{t-1}, so there is no form that is parallel in time: torch's fused kernel goes
    token by token over each stretch in which no row starts a document or changes between valid and
    masked.

    Source: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, as in
    torch.nn.LSTM. Deviates: one bias in place of torch's two, which are only ever added; forget
    gates start at bias 1 (Jozefowicz et al. 2015); heads are ignored.
    Cost: O(T D^2) time in T sequential steps, O(B D) state.
    """

    update: ClassVar[str] = "c <- f c + i tanh(g); h = o tanh(c); the gates read x and the last h"
    source: ClassVar[str] = "Hochreiter and Schmidhuber 1997; Gers et al. 2000"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        forget_bias: float = 1.0  # bias of the forget gates at the start of training

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.input = nn.Linear(hidden_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_state(self, batch: int) -> LSTMState:
        """Zeros."""
        weight = self.recurrent.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        zero = weight.new_zeros(batch, self.hidden_size, dtype=dtype)
        return LSTMState(zero, zero)

    def forward(
        self, x: Float[Tensor, "B T D"], state: LSTMState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], LSTMState]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, state.cell.dtype)
            (inward, bias), (again, second) = matrix(self.input), matrix(self.recurrent)
            assert bias is not None
            # torch has two biases
            second = torch.zeros_like(bias) if second is None else second
            weights = [w.to(dtype) for w in (inward, again, bias, second)]
            state, outputs = LSTMState(*(s.to(dtype) for s in state)), []
            for begin, end in stretches(flow, x.shape[1]):
                y, state = self._stretch(x[:, begin:end].to(dtype), weights, state, flow, begin)
                outputs.append(y)
        y = torch.cat(outputs, dim=1).to(x.dtype) if outputs else x
        return self.output(y), state

    def _stretch(
        self,
        x: Float[Tensor, "B C D"],
        weights: list[Tensor],
        state: LSTMState,
        flow: Flow,
        begin: int,
    ) -> tuple[Float[Tensor, "B C D"], LSTMState]:
        """A stretch of tokens in which rows start documents or change masking only at ``begin``."""
        if flow.reset is not None:
            keep = ~flow.reset[:, begin, None]
            state = LSTMState(*(torch.where(keep, s, s.new_zeros(())) for s in state))
        layers, dropout, bidirectional, batch_first = 1, 0.0, False, True
        # torch keeps [layers, B, D]
        y, *after = torch.lstm(
            x,
            [s[None] for s in state],
            weights,
            True,
            layers,
            dropout,
            self.training,
            bidirectional,
            batch_first,
        )
        new = LSTMState(*(s[0] for s in after))
        if flow.mask is not None:
            valid = flow.mask[:, begin, None]
            pairs = zip(new, state, strict=True)
            new = LSTMState(*(torch.where(valid, s, old) for s, old in pairs))
        return y, new

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Gate weights uniform as in torch; biases 0, the forget gates' as set; output 0.02."""
        bound = 1 / math.sqrt(self.hidden_size)
        for linear in (self.input, self.recurrent):
            linear.weight.uniform_(-bound, bound, generator=generator)
        self.input.bias.zero_()
        self.input.bias.view(4, -1)[1] = self.config.forget_bias
        self.output.weight.normal_(std=INITIAL_STD, generator=generator)

    def levels(self) -> list[Level]:
        """The cells, written at every token."""
        return [
            Level(
                name="lstm",
                period=1,
                parameters=2 * self.hidden_size,
                per_sequence=True,
                objective="none of its own",
                rule="gated addition, the gates made of x and the last output",
                context="the inputs of the document so far",
                transfer=(
                    Transfer(kind="direct", partner="weights", what="the output gate reads it"),
                    Transfer(
                        kind="context generation",
                        partner="weights",
                        what="weights compute the gates",
                    ),
                ),
            )
        ]


def stretches(flow: Flow, length: int) -> list[tuple[int, int]]:
    """Split [0, length) where any row starts a document or changes between valid and masked.

    >>> reset = torch.tensor([[True, False, False, False], [True, False, False, True]])
    >>> mask = torch.tensor([[True, True, True, True], [True, False, False, True]])
    >>> stretches(Flow(reset, mask), 4)
    [(0, 1), (1, 3), (3, 4)]
    """
    if flow.reset is None and flow.mask is None:
        return [(0, length)] if length else []
    cut = torch.zeros(length + 1, dtype=torch.bool)
    cut[0] = cut[length] = True
    if flow.reset is not None:
        cut[:-1] |= flow.reset.any(0).cpu()
    if flow.mask is not None and length:
        cut[1:-1] |= (flow.mask[:, 1:] != flow.mask[:, :-1]).any(0).cpu()
    points = cut.nonzero()[:, 0].tolist()
    return list(zip(points[:-1], points[1:], strict=True))
