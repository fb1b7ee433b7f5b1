"""The base class of memories: maps of sequences with explicit state."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.named import traceable
from nestling.core.state import Layout


@traceable
class Flow(NamedTuple):
    """Document starts and padding in the rows of a call.

    ``reset`` is True at a token that starts a document: everything remembered before it is dropped.
    ``mask`` is False at padding, which must not change any state. Within a document, masked
    positions come after the valid ones; the language model takes care of that.
    """

    reset: Bool[Tensor, "B T"] | None = None
    mask: Bool[Tensor, "B T"] | None = None


class TrainedLevel(NamedTuple):
    """Parameters that training writes with their own period."""

    period: int  # tokens between two writes
    parameters: tuple[nn.Parameter, ...]
    # when the next slower level is written, this one is reset, and its start moves by this
    # fraction of the way it went; None: never reset
    share: float | None = None


class Memory(nn.Module, ABC):
    """Maps [B, T, D] to [B, T, D] with a state: ``forward(x, state, flow) -> (y, state)``.

    The state is a NamedTuple of tensors, each with the batch first, or None for a memory that keeps
    nothing between calls. It is a value: a call never modifies the state it is given, and the
    module holds none. The tests check these laws for every registered memory: any split of a
    sequence gives the same result as the whole, outputs do not depend on later inputs, rows are
    independent, a reset equals a fresh call, masked positions change nothing, and a sequence may be
    empty.
    """

    # True: the block computes x + memory(norm(x)). False: the memory has its own norms and
    # residuals and gets x itself.
    residual: ClassVar[bool] = True
    # one line each, for tables: the effect of a token on the state, and the publication
    update: ClassVar[str]
    source: ClassVar[str]
    # last names of the parameters that stay in float32 in a half-precision model: those whose
    # small errors add up over thousands of tokens, such as initial states, gates and rates
    float32: ClassVar[tuple[str, ...]] = ()
    # learning-rate factors by role: regular expression in the parameter name -> factor; others: 1
    rates: ClassVar[Mapping[str, float]] = {}
    # options of earlier versions: the value that is now fixed, and what to use for other values
    retired: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    # documents are best aligned to multiples of this many tokens: the longest period
    alignment: int = 1
    # names of sizes in the annotations of the state that start at zero and grow with the text
    grows: ClassVar[frozenset[str]] = frozenset()
    # parts of the state that may be None, by the part whose shape they have
    derived: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _layout: Layout | None = None

    def __call__(self, x: Any, state: Any = None, flow: Flow = Flow()) -> Any:
        """``forward``, after checking that the state fits this memory and the rows of x.

        Raises UserError if it does not.
        """
        if not torch.compiler.is_compiling():
            self.verify(state, x, flow)
        return super().__call__(x, state, flow)

    def verify(self, state: Any, x: Any = None, flow: Flow = Flow(), **sizes: int) -> None:
        """Raise UserError for a state, input or flow that does not fit this memory.

        A state of None is a fresh one. ``sizes`` gives the number of rows as B if there is no x.
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
        """Read and write along the sequence; ``state=None`` starts with an empty memory."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter and every non-persistent buffer of the memory, in place."""

    @abstractmethod
    def levels(self) -> list[Level]:
        """The boxes of the nested system in this memory."""

    def trained_levels(self) -> list[TrainedLevel]:
        """The parameters that training writes with their own periods; others at every step."""
        return []

    def float32_parameters(self) -> list[str]:
        """The names of the parameters that stay in float32 in a half-precision model.

        Members of a parameter list are matched by the name of the list.
        """
        chosen = set(self.float32)
        return [name for name, _ in self.named_parameters() if chosen & set(name.split("."))]

    def rate_factors(self) -> dict[str, float]:
        """The learning-rate factors other than 1, by parameter name."""
        return {
            name: factor
            for pattern, factor in self.rates.items()
            for name, _ in self.named_parameters()
            if re.search(pattern, name)
        }


def map_state(function: Callable[[Tensor], Any], state: Any) -> Any:
    """Apply ``function`` to every tensor of a state, keeping its structure.

    Used to detach, move, reorder or repeat rows: the batch is the first dimension of all tensors.
    """
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, (tuple, list)):
        items = [map_state(function, item) for item in state]
        return type(state)(*items) if hasattr(state, "_fields") else type(state)(items)
    return state


def detached(state: Any) -> Any:
    """A detached copy of a state; parts that share a tensor still do."""
    known: dict[int, Tensor] = {}
    return map_state(lambda x: known.setdefault(id(x), x.detach()), state)


def truncated(
    memory: Memory, x: Float[Tensor, "B T D"], state: Any, flow: Flow, tokens: int | None
) -> tuple[Float[Tensor, "B T D"], Any]:
    """``memory(x, state, flow)`` with outer gradients through the state cut every ``tokens``.

    The state is detached every ``tokens`` of the call, so a write gets gradients only from reads
    within the same span: with the period of the memory, from its own period; with 1, from its own
    token. The outputs are the same.

    Source: truncated back-propagation through time. Cost: one call of the memory per span.
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
