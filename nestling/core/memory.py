"""What a memory is: a map of sequences with an explicit state."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.state import Layout


class Flow(NamedTuple):
    """What the rows of a call hold besides their values.

    ``reset`` is True at a token that starts a document: everything remembered before it is gone.
    ``mask`` is False at a position that must change nothing (padding, fill). Within one document
    the masked positions come after its valid ones; the language model sees to it.
    """

    reset: Bool[Tensor, "B T"] | None = None
    mask: Bool[Tensor, "B T"] | None = None


class TrainedLevel(NamedTuple):
    """Parameters that training writes at a period of their own."""

    period: int  # tokens between two writes
    parameters: tuple[nn.Parameter, ...]
    # fraction of its way that the level's start takes up whenever the next slower one is written
    # and resets it; None: never reset
    share: float | None = None


class Memory(nn.Module, ABC):
    """Maps [B, T, D] to [B, T, D] and remembers: ``forward(x, state, flow) -> (y, state)``.

    The state is a NamedTuple of tensors, each with the batch first, or None for a memory that
    keeps nothing between calls. It is a value: calls never change the one they are given, and the
    module holds none. What every memory obeys is tested over the whole registry: any split of a
    sequence gives the same as the whole, outputs are blind to later inputs, rows are independent,
    a reset equals a fresh call, masked positions change nothing, a sequence may be empty.
    """

    # True: the block computes x + memory(norm(x)). False: the memory has norms and residuals of
    # its own and is given x itself.
    residual: ClassVar[bool] = True
    # one line each, for the tables: what a token does to the state, and where it was published
    update: ClassVar[str]
    source: ClassVar[str]
    # last names of the parameters that stay in float32 in a model of half precision: those whose
    # small differences add up over thousands of tokens, such as initial states, gates and rates
    float32: ClassVar[tuple[str, ...]] = ()
    # factors on the learning rate by role: of the parameters whose names a regular expression is
    # found in; all others have 1
    rates: ClassVar[Mapping[str, float]] = {}
    # options of earlier versions: the value that is what is done now, and what to use for others
    retired: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    # tokens at whose multiples documents are best begun: the longest period of the memory
    alignment: int = 1
    # names, in the annotations of its state, of sizes that begin at zero and grow with what is read
    grows: ClassVar[frozenset[str]] = frozenset()
    # parts of its state that may be None, by the part that they are as large as
    derived: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _layout: Layout | None = None

    def __call__(self, x: Any, state: Any = None, flow: Flow = Flow()) -> Any:
        """As ``forward``, once a state was found to be of this memory, and of x's rows.

        Raises UserError for one that is not: what is computed with it could be anything.
        """
        if not torch.compiler.is_compiling():
            self.verify(state, x, flow)
        return super().__call__(x, state, flow)

    def verify(self, state: Any, x: Any = None, flow: Flow = Flow(), **sizes: int) -> None:
        """Raise UserError for a state, or an input or flow with it, that this memory cannot take.

        None is a fresh state. ``sizes`` tells the rows as B where there is no x.
        """
        if self._layout is None:
            with torch.no_grad():
                example = self.init_state(1)
            self._layout = Layout(type(self).__name__, example, self.grows, self.derived)
        self._layout.verify(state, x, flow.reset, flow.mask, **sizes)

    @abstractmethod
    def init_state(self, batch: int) -> Any:
        """The state before the first token of ``batch`` rows."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Read and write along the sequence; ``state=None`` starts afresh."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter and every non-persistent buffer of the memory, in place."""

    @abstractmethod
    def levels(self) -> list[Level]:
        """The boxes of the nested system that live in this memory."""

    def trained_levels(self) -> list[TrainedLevel]:
        """Which parameters training writes at periods of their own; all others at every step."""
        return []

    def float32_parameters(self) -> list[str]:
        """Names of the parameters that stay in float32 in a model of half precision.

        A list of parameters counts by the name of the list.
        """
        chosen = set(self.float32)
        return [name for name, _ in self.named_parameters() if chosen & set(name.split("."))]

    def rate_factors(self) -> dict[str, float]:
        """Factors on the learning rate, by the names of the parameters that have another than 1."""
        return {
            name: factor
            for pattern, factor in self.rates.items()
            for name, _ in self.named_parameters()
            if re.search(pattern, name)
        }


def map_state(function: Callable[[Tensor], Any], state: Any) -> Any:
    """Apply ``function`` to every tensor of a state, keeping its structure.

    Serves detaching, moving, reordering and repeating rows: batch comes first in all of them.
    """
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, (tuple, list)):
        items = [map_state(function, item) for item in state]
        return type(state)(*items) if hasattr(state, "_fields") else type(state)(items)
    return state


def detached(state: Any) -> Any:
    """The same values with no gradient behind them; what was one tensor stays one."""
    known: dict[int, Tensor] = {}
    return map_state(lambda x: known.setdefault(id(x), x.detach()), state)


def truncated(
    memory: Memory, x: Float[Tensor, "B T D"], state: Any, flow: Flow, tokens: int | None
) -> tuple[Float[Tensor, "B T D"], Any]:
    """``memory(x, state, flow)`` with outer gradients through its state cut after ``tokens``.

    Every ``tokens`` of the call what is remembered goes on as a constant, so a write has gradients
    from reads of its own stretch alone: with the period of the memory, of its own period; with 1,
    of its own token. The answers are the same.

    Source: truncated back-propagation through time. Cost: a call of the memory for each stretch.
    """
    if tokens is None or tokens >= x.shape[1] or not torch.is_grad_enabled():
        return memory(x, state, flow)
    answers = []
    for begin in range(0, x.shape[1], tokens):
        here = slice(begin, begin + tokens)
        part = Flow(*(None if f is None else f[:, here] for f in flow))
        y, state = memory(x[:, here], detached(state) if begin else state, part)
        answers.append(y)
    return torch.cat(answers, dim=1), state
