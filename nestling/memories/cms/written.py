"""A level that is written inside the sequence: a network with weights of its own in each row."""

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.named import traceable
from nestling.core.transfer import Transfer, added_to
from nestling.memories.cms.network import Weights, gradients, grams, read
from nestling.memories.mlp import SwiGLU
from nestling.memories.parts import matrix
from nestling.rules.level import (
    CMSLevel,
    LevelState,
    gather,
    new_level,
    restart,
    weights_of,
    write,
)
from nestling.rules.objective import objective


@traceable
class WrittenState(NamedTuple):
    """The state of one level, for every row."""

    level: LevelState
    last: Float[Tensor, "B D"]  # the level's input at the last token; zero before the first
    inputs: Float[Tensor, "B W D"]  # its inputs in the current segment, if ``keeps_inputs``
    probe: tuple[Tensor, ...] = ()  # ntp: zeros added to the weights, to collect gradients


class WrittenLevel(nn.Module):
    """``x + SwiGLU(RMSNorm(x))`` whose three matrices are written separately in each row.

    The matrices of the module are the initial state, learned by the outer optimizer through the
    writes. With the objective "local" the pair of token t is the level's previous input and a
    projection of its present one, ``(h_{t-1}, V h_t)``, known as soon as t is read:

        g_t = gradient of L(f(h_{t-1}; theta), V h_t) at the theta that opened the period
        theta <- theta + rule(mean of g_t over the period)   once every C tokens of the document

    with L(y, v) = -<y, v> ("dot") or |y - v|^2 / 2 ("l2").

    Source: arXiv 2512.24695, Eq 71, with the pairs of arXiv 2604.06169. Deviates: the mean in place
    of the sum; the paper leaves f and the objective open.
    """

    FLOAT32: ClassVar[tuple[str, ...]] = ("log_rate",)  # see Memory.float32

    def __init__(self, level: CMSLevel, loss: str, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.level = level
        self.loss = loss
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.network = SwiGLU(hidden_size, intermediate_size)
        self.log_rate = nn.Parameter(torch.empty(()))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02, the rate as configured."""
        self.norm.weight.fill_(1.0)
        self.network.init_weights(generator)
        self.log_rate.zero_()

    def start(self) -> Weights:
        """The learned initial state, at least float32."""
        network = self.network
        matrices = (matrix(m)[0] for m in (network.gate, network.up, network.output))
        return Weights(*(m.to(torch.promote_types(m.dtype, torch.float32)) for m in matrices))

    def keeps_inputs(self) -> bool:
        """Whether the level's inputs must be kept until its loss or signal is known."""
        waits = self.level.objective != "local"
        return waits and (self.level.objective == "teach" or self.level.rule == "dgd")

    def rate(self) -> Float[Tensor, ""]:
        """The learned learning rate."""
        dtype = torch.promote_types(self.network.gate.weight.dtype, torch.float32)
        return self.level.lr * self.log_rate.to(dtype).exp()

    def init_state(self, batch: int) -> WrittenState:
        """The state before the first token."""
        start = self.start()
        width = start.gate.shape[1]
        state = new_level(self.level, start, batch, (width, width, start.gate.shape[0]))
        empty = state.terms.new_zeros(batch, 0, width)
        return WrittenState(state, empty.new_zeros(batch, width), empty)

    def reset(self, state: WrittenState, rows: Bool[Tensor, " B"]) -> WrittenState:
        """Reset these rows to the learned initial state."""
        return WrittenState(
            restart(state.level, rows),
            state.last.masked_fill(rows[:, None], 0),
            state.inputs,
            state.probe,
        )

    def rewind(self, state: WrittenState, rows: Bool[Tensor, " B"]) -> WrittenState:
        """Reset the weights of these rows to their start; the document goes on."""
        return state._replace(level=restart(state.level, rows, keep_seen=True))

    def read(
        self,
        h: Float[Tensor, "B R D"],
        target: Float[Tensor, "B R D"],
        valid: Bool[Tensor, "B R"],
        state: WrittenState,
        start: Weights,
        through: str = "full",
    ) -> tuple[Float[Tensor, "B R D"], WrittenState]:
        """f(h; theta), and the state with the gradients of these tokens' pairs added.

        The tokens lie in one period; in each row valid ones come first. ``start`` is the initial
        state, for all rows or for each.
        """
        weights = Weights(*weights_of(start, state.level))
        if self.level.objective != "local":
            if state.probe:
                weights = Weights(*map(torch.add, weights, state.probe))
            inputs = state.inputs
            if self.keeps_inputs():
                inputs = torch.cat((inputs, h * valid[..., None]), dim=1)
            return read(weights, h).answer, state._replace(inputs=inputs)
        line = torch.cat((state.last[:, None], h), dim=1)
        reading = read(weights, line)
        known = torch.cat(((state.level.seen > 0)[:, None], valid[:, 1:]), dim=1) & valid
        sure = known[..., None].to(h.dtype)
        keys, before = line[:, :-1], reading.some(0, h.shape[1])
        slope = objective(self.loss).gradient(before.answer, target)
        moves = gradients(weights, keys, before, slope * sure)
        gram = grams(keys, before, sure) if self.level.rule == "dgd" else ()
        if through == "first":
            moves, gram = Weights(*map(Tensor.detach, moves)), tuple(map(Tensor.detach, gram))
        count = valid.sum(1)
        level = gather(state.level, moves, seen=count, terms=sure.sum((1, 2)), gram=gram)
        last = line.gather(1, count[:, None, None].expand(-1, 1, h.shape[-1]))[:, 0]
        return reading.answer[:, 1:], state._replace(level=level, last=last)

    def taught(
        self, state: WrittenState, signal: Float[Tensor, "B R D"], start: Weights
    ) -> Weights:
        """Gradients of <signal, f(h; theta)>, summed over the inputs, with ``signal`` constant."""
        weights = Weights(*weights_of(start, state.level))
        inputs = state.inputs
        return gradients(weights, inputs, read(weights, inputs), signal[:, : inputs.shape[1]])

    def grams(
        self, state: WrittenState, rows: Bool[Tensor, " B"], start: Weights
    ) -> tuple[Tensor, ...]:
        """dgd: sums of x x^T over the inputs of each matrix in the current segment of these rows.

        Empty for all other rules, which do not need them.
        """
        if self.level.rule != "dgd":
            return ()
        weights = Weights(*weights_of(start, state.level))
        # inputs at masked positions are zero, and so are their hidden values
        inputs = state.inputs
        valid = rows[:, None, None].to(inputs.dtype).expand(-1, inputs.shape[1], -1)
        return grams(inputs, read(weights, inputs), valid)

    def write(self, state: WrittenState, rows: Bool[Tensor, " B"], start: Weights) -> WrittenState:
        """Write these rows, if they have collected any gradient."""
        rows = rows & (state.level.terms > 0)
        level = write(self.level, start, state.level, rows=rows, lr=self.rate())
        return state._replace(level=level)

    def boxes(self, name: str, transfer: tuple[Transfer, ...]) -> Iterable[Level]:
        """The level's boxes in the nested system: the memories of its rule, and its weights."""
        text = {
            "local": f"{self.loss} of f(h_{{t-1}}) and V h_t",
            "ntp": "next-token prediction",
            "teach": "<f(h_t), gradient of the head>",
        }[self.level.objective]
        rule = self.level.written_by
        names = tuple(f"{record.name} of {name}" for record in rule.records)
        weights = Level(
            name=name,
            period=self.level.period,
            parameters=sum(p.numel() for p in self.network.parameters()),
            per_sequence=True,
            objective=text,
            rule=rule.summary,
            context=f"{self.level.period} tokens of the document",
            transfer=transfer,
            depends_on=names,
        )
        for memory, record in zip(names, rule.records, strict=True):
            yield replace(
                weights,
                name=memory,
                period=self.level.period * record.steps,
                objective=record.objective,
                rule=record.rule,
                transfer=(added_to(name),),
                depends_on=(),
            )
        yield weights
