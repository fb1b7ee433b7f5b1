"""The backbone: a stack of memories on the residual stream."""

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nestling.core.error import UserError
from nestling.core.gradient import as_now
from nestling.core.memory import Flow
from nestling.memories import MEMORIES
from nestling.memories.order import along, valid_first
from nestling.models.block import Block
from nestling.models.config import HopeConfig


def blocks_of(config: HopeConfig) -> nn.ModuleList:
    """The pattern of memories, ``num_hidden_layers`` times, each on the residual stream."""
    configs = config.memory_configs()
    blocks = [
        Block(
            name,
            MEMORIES.load(name)(
                configs[name], hidden_size=config.hidden_size, num_heads=config.num_heads
            ),
            hidden_size=config.hidden_size,
            norm_eps=config.norm_eps,
            truncate=config.truncates(name),
        )
        for _ in range(config.num_hidden_layers)
        for name in config.pattern
    ]
    if config.truncate is not None:
        _check_truncate(config.truncate, blocks)
    return nn.ModuleList(blocks)


def _check_truncate(truncate: int | dict[str, int], blocks: Sequence[Block]) -> None:
    """Raise UserError if there is no state for gradients to flow through."""
    kept = {block.name for block in blocks if block.memory.init_state(1) is not None}
    asked = set(truncate) if isinstance(truncate, dict) else set()
    if asked - kept or not kept:
        names = ", ".join(sorted(asked - kept) or sorted({block.name for block in blocks}))
        raise UserError(f"truncate has no effect on {names}, which has no state; leave it out")


def kept_in_float32(blocks: nn.ModuleList) -> list[str]:
    """Regular expressions for the parameters that the memories keep in float32 (transformers)."""
    places: dict[str, list[int]] = {}
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        for name in block.memory.float32_parameters():
            places.setdefault(name, []).append(index)
    return [
        rf"blocks\.(?:{'|'.join(map(str, indices))})\.memory\.{re.escape(name)}$"
        for name, indices in places.items()
    ]


@runtime_checkable
class Relay(Protocol):
    """Passes the states of blocks between processes, see ``nestling.train.sequence``."""

    @property
    def first(self) -> bool:
        """Whether this process continues from its own states."""
        ...

    def receive(self, index: int, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The stream and the state that block ``index`` starts with."""
        ...

    def hand_on(self, index: int, x: Tensor, state: Any) -> Tensor:
        """The stream after block ``index``, whose new state is ``state``."""
        ...


def read(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    x: Float[Tensor, "B T D"],
    states: list[Any] | None,
    flow: Flow,
    *,
    recompute: bool = False,  # recompute each block in the backward pass
    passed: list[Tensor] | None = None,  # collects the stream before every block
    relay: Relay | None = None,
) -> tuple[Float[Tensor, "B T D"], list[Any]]:
    """Map embedded tokens to the output of the last block, and advance every memory.

    Masked positions may be anywhere in a row: they are moved to the end of their document for the
    memories, and back afterwards.
    """
    order = None
    if flow.mask is not None and x.shape[1] > 1:
        order = valid_first(flow)
        x = along(x, order)
        flow = flow._replace(mask=flow.mask.gather(1, order))
    back = None if order is None else order.argsort(1)
    states = [None] * len(blocks) if states is None else states
    after = []
    for index, (block, state) in enumerate(zip(blocks, states, strict=True)):
        if passed is not None:
            passed.append(x if back is None else along(x, back))
        if relay is not None:
            x, state = relay.receive(index, x, state)
        if recompute:
            x, state = checkpoint(block, x, state, flow, use_reentrant=False, context_fn=as_now)
        else:
            x, state = block(x, state, flow)
        if relay is not None:
            x = relay.hand_on(index, x, state)
        after.append(state)
    return x if back is None else along(x, back), after
