"""The backbone: embeddings and a stack of memories, tokens in, hidden states out."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nestling.core.memory import Flow
from nestling.memories import MEMORIES
from nestling.models.block import Block


class Backbone(nn.Module):
    """Embedding, the pattern of memories ``repeats`` times, and a last RMSNorm.

    States are a list with one entry a block; None starts afresh.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_heads: int,
        repeats: int,
        memories: Sequence[tuple[str, Any]],
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.blocks = nn.ModuleList(
            Block(
                name,
                MEMORIES.load(name)(config, hidden_size=hidden_size, num_heads=num_heads),
                hidden_size=hidden_size,
                norm_eps=norm_eps,
            )
            for _ in range(repeats)
            for name, config in memories
        )
        self.norm = nn.RMSNorm(hidden_size, eps=norm_eps)
        # the name Hugging Face switches; True: recompute each block in the backward pass
        self.gradient_checkpointing = False

    def each(self) -> Iterator[Block]:
        """The blocks, in order."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def init_states(self, batch: int) -> list[Any]:
        """The states of all blocks before the first token."""
        return [block.memory.init_state(batch) for block in self.each()]

    def forward(
        self, x: Float[Tensor, "B T D"], states: list[Any] | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], list[Any]]:
        """Map embedded tokens to normalised hidden states, and move every memory on.

        Masked positions may stand anywhere in a row: they are moved behind the valid ones of
        their document before the memories see them, and back afterwards.
        """
        order = None
        if flow.mask is not None and x.shape[1] > 1:
            order = valid_first(flow)
            x = along(x, order)
            flow = flow._replace(mask=flow.mask.gather(1, order))
        states = [None] * len(self.blocks) if states is None else states
        after = []
        for block, state in zip(self.blocks, states, strict=True):
            if self.gradient_checkpointing and self.training:
                x, state = checkpoint(block, x, state, flow, use_reentrant=False)
            else:
                x, state = block(x, state, flow)
            after.append(state)
        if order is not None:
            x = along(x, order.argsort(1))
        return self.norm(x), after


def valid_first(flow: Flow) -> Int[Tensor, "B T"]:
    """The order that puts the masked positions of each document behind its valid ones."""
    assert flow.mask is not None
    key = (~flow.mask).long()
    if flow.reset is not None:
        key = key + 2 * flow.reset.long().cumsum(1)
    return key.argsort(dim=1, stable=True)


def along(x: Float[Tensor, "B T D"], order: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Put the positions of each row in a new order."""
    return x.gather(1, order[..., None].expand_as(x))
