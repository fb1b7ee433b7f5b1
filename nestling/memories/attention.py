"""Softmax attention as a memory: it keeps every pair, or those within a window."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.transfer import MADE, Transfer
from nestling.memories.parts import ShortConvolution, positions_of

INITIAL_STD = 0.02
NOBODY = -1  # document number of a masked position


@traceable
class AttentionState(NamedTuple):
    """The pairs kept so far and the position of each row; S columns, oldest first."""

    keys: Float[Tensor, "B S G K"]  # rotated
    values: Float[Tensor, "B S G K"]
    documents: Int[Tensor, "B S"]  # which document a column belongs to; -1 = masked
    positions: Int[Tensor, "B S"]  # tokens, from the start of that document
    document: Int[Tensor, "B"]  # number of the open document
    seen: Int[Tensor, "B"]  # tokens of the open document
    tail: Float[Tensor, "B W C"]  # last inputs of the short convolution; empty without one


def rotate(
    x: Float[Tensor, "B T H K"], positions: Int[Tensor, "B T"], theta: float
) -> Float[Tensor, "B T H K"]:
    """Rotary position embedding, halves paired (arXiv 2104.09864, Eq 34, in the Llama layout)."""
    half = x.shape[-1] // 2
    dtype = torch.promote_types(x.dtype, torch.float32)
    exponent = torch.arange(half, device=x.device, dtype=dtype) / half
    angle = positions[..., None, None].to(dtype) * theta**-exponent
    cos, sin = angle.cos(), angle.sin()
    first, second = x.to(dtype).split(half, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Attention(Memory):
    """Causal softmax attention with rotary positions counted from each document's own start.

    Source: arXiv 2512.24695, Eq 62 (and 63 for the window). Deviates: grouped key-value heads.
    Cost: O(B T (S + T) D) time, O(B S D) state for S tokens kept.
    """

    residual: ClassVar[bool] = True
    grows: ClassVar[frozenset[str]] = frozenset({"S"})
    update: ClassVar[str] = "keep every pair (k, v); y = sum softmax(q k) v"
    source: ClassVar[str] = "arXiv 1706.03762; 2512.24695 Eq 62-63"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        num_kv_heads: int | None = None  # heads of keys and values; None: as many as of queries
        head_size: int | None = None  # channels of a head; None: hidden_size / heads
        window: int | None = None  # tokens a query sees, itself included; None: all
        rope_theta: float = 10000.0  # base of the rotation's wavelengths
        short_convolution: bool = False  # width-4 causal convolution and SiLU on q, k and v

        def __post_init__(self):
            if self.window is not None and self.window < 1:
                raise UserError(
                    f"attention.window is {self.window}; give at least 1 token, or null for all"
                )
            if self.head_size is not None and (self.head_size < 2 or self.head_size % 2):
                raise UserError(
                    f"attention.head_size is {self.head_size}; give an even number of channels"
                )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.num_kv_heads = config.num_kv_heads or num_heads
        self.head_size = config.head_size or hidden_size // num_heads
        if config.head_size is None and (hidden_size % num_heads or self.head_size % 2):
            raise UserError(
                f"hidden_size {hidden_size} does not split into {num_heads} heads of even width"
            )
        if num_heads % self.num_kv_heads:
            raise UserError(
                f"num_heads {num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        wide, narrow = num_heads * self.head_size, self.num_kv_heads * self.head_size
        self.query = nn.Linear(hidden_size, wide, bias=False)
        self.key = nn.Linear(hidden_size, narrow, bias=False)
        self.value = nn.Linear(hidden_size, narrow, bias=False)
        self.output = nn.Linear(wide, hidden_size, bias=False)
        self.convolution = ShortConvolution(wide + 2 * narrow) if config.short_convolution else None

    def init_state(self, batch: int) -> AttentionState:
        """An empty state: zero columns."""
        weight = self.key.weight
        empty = weight.new_zeros(batch, 0, self.num_kv_heads, self.head_size)
        whole = torch.zeros(batch, dtype=torch.long, device=weight.device)
        none = whole.new_zeros(batch, 0)
        tail = weight.new_zeros(batch, 0, 0)
        if self.convolution is not None:
            tail = self.convolution.init_tail(batch)
        return AttentionState(empty, empty, none, none, whole, whole, tail)

    def forward(
        self, x: Float[Tensor, "B T D"], state: AttentionState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], AttentionState]:
        """Attend to the document so far, and keep the new pairs."""
        y, state = self.mix(x, state, flow)
        return self.output(y), state

    def mix(
        self,
        x: Float[Tensor, "B T D"],
        state: AttentionState | None = None,
        flow: Flow = Flow(),
        prefix: Float[Tensor, "P D"] | None = None,
        slides: bool = False,
    ) -> tuple[Float[Tensor, "B T E"], AttentionState]:
        """The outputs of the heads, concatenated, before the projection back to the stream.

        ``prefix`` precedes the first token of every document, at positions -P to -1, and is not
        part of the state. Every query sees it; with ``slides`` only within the window.
        """
        state = self.init_state(x.shape[0]) if state is None else state
        q, k, v, tail = self.project(x, state.tail, flow)
        return self.answer(q, k, v, state._replace(tail=tail), flow, prefix, slides)

    def answer(
        self,
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T G K"],
        v: Float[Tensor, "B T G K"],
        state: AttentionState,
        flow: Flow,
        prefix: Float[Tensor, "P D"] | None = None,
        slides: bool = False,
    ) -> tuple[Float[Tensor, "B T E"], AttentionState]:
        """``mix`` from queries, keys and values that are not yet rotated."""
        documents, positions, document, seen = place(q.shape[:2], state, flow)
        q, k = rotate(torch.cat((q, k), dim=2), positions, self.config.rope_theta).split(
            (self.num_heads, self.num_kv_heads), dim=2
        )
        mine = documents if flow.mask is None else documents.where(flow.mask, NOBODY)
        kept = AttentionState(
            torch.cat((state.keys.to(k.dtype), k), dim=1),
            torch.cat((state.values.to(v.dtype), v), dim=1),
            torch.cat((state.documents, mine), dim=1),
            torch.cat((state.positions, positions), dim=1),
            document,
            seen,
            state.tail,
        )
        fresh = state.keys.shape[1] == 0 and flow.reset is None and flow.mask is None
        plain = self.config.window is None and prefix is None
        if fresh and plain:
            y = self.attend(q, k, v, None)
        elif plain and q.shape[1] == 1 and self._sees_all(kept):
            y = self.attend(q, kept.keys, kept.values, None)
        else:
            keys, values = kept.keys, kept.values
            allowed = self._allowed(kept, documents, positions)
            if prefix is not None:
                keys, values, allowed = self._before(
                    prefix, keys, values, allowed, positions, slides
                )
            y = self.attend(q, keys, values, allowed)
            kept = self._forget(kept)
        return y.flatten(-2), kept

    @staticmethod
    def _sees_all(kept: AttentionState) -> bool:
        """Whether the single new token of every row sees every column, if the host knows."""
        if kept.documents.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return bool((kept.documents == kept.document[:, None]).all())

    def _before(
        self,
        prefix: Float[Tensor, "P D"],
        keys: Float[Tensor, "B S G K"],
        values: Float[Tensor, "B S G K"],
        allowed: Bool[Tensor, "B 1 T S"],
        positions: Int[Tensor, "B T"],
        slides: bool,
    ) -> tuple[Float[Tensor, "B Z G K"], Float[Tensor, "B Z G K"], Bool[Tensor, "B 1 T Z"]]:
        """Prepend the pairs of the prefix; Z = P + S columns."""
        batch, length = positions.shape
        tail = self.init_state(1).tail
        _, k, v, _ = self.project(prefix[None], tail, Flow())
        places = torch.arange(-len(prefix), 0, device=prefix.device)
        k = rotate(k, places[None], self.config.rope_theta)
        seen = allowed.new_ones(batch, length, len(prefix))
        if slides and self.config.window is not None:
            seen = positions[:, :, None] - places < self.config.window
        return (
            torch.cat((k.expand(batch, -1, -1, -1).to(keys.dtype), keys), dim=1),
            torch.cat((v.expand(batch, -1, -1, -1).to(values.dtype), values), dim=1),
            torch.cat((seen[:, None], allowed), dim=-1),
        )

    def project(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B W C"], flow: Flow
    ) -> tuple[
        Float[Tensor, "B T H K"],
        Float[Tensor, "B T G K"],
        Float[Tensor, "B T G K"],
        Float[Tensor, "B W C"],
    ]:
        """Queries, keys and values, not yet rotated, and the convolution's new tail."""
        joined = torch.cat((self.query(x), self.key(x), self.value(x)), dim=-1)
        if self.convolution is not None:
            joined, tail = self.convolution(joined, tail, flow)
        heads = joined.unflatten(-1, (-1, self.head_size))
        groups = self.num_kv_heads
        return *heads.split((self.num_heads, groups, groups), dim=2), tail

    def _allowed(
        self, kept: AttentionState, documents: Int[Tensor, "B T"], positions: Int[Tensor, "B T"]
    ) -> Bool[Tensor, "B 1 T S"]:
        """The columns that each query sees; always its own, so that no softmax row is empty."""
        rows, columns = documents.shape[1], kept.documents.shape[1]
        own = torch.ones(rows, columns, dtype=torch.bool, device=documents.device)
        causal = own.tril(columns - rows)
        own = causal & own.triu(columns - rows)
        same = documents[:, :, None] == kept.documents[:, None, :]
        if self.config.window is not None:
            distance = positions[:, :, None] - kept.positions[:, None, :]
            same = same & (distance < self.config.window)
        return ((same & causal) | own)[:, None]

    def attend(
        self,
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B S G K"],
        v: Float[Tensor, "B S G K"],
        allowed: Bool[Tensor, "B 1 T S"] | None,
    ) -> Float[Tensor, "B T H K"]:
        """The weighted mean of values; ``allowed=None``: causal if T = S, and all for T = 1."""
        if q.shape[1] == 0:
            return q
        if q.shape[1] == 1:
            # treat the queries of a group as rows of one head, so that its pairs are read once
            rows = q.unflatten(2, (self.num_kv_heads, -1))[:, 0]
            y = functional.scaled_dot_product_attention(
                rows, k.transpose(1, 2), v.transpose(1, 2), attn_mask=allowed
            )
            return y.flatten(1, 2)[:, None]
        grouped = self.num_kv_heads != self.num_heads
        y = functional.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)),
            attn_mask=allowed,
            is_causal=allowed is None,
            enable_gqa=grouped,
        )
        return y.transpose(1, 2)

    def _forget(self, kept: AttentionState) -> AttentionState:
        """Drop the leading columns that no row can see any more."""
        columns = kept.documents.shape[1]
        if columns == 0 or torch.compiler.is_compiling():
            return kept
        useful = kept.documents == kept.document[:, None]
        if self.config.window is not None:
            useful = useful & (kept.seen[:, None] - kept.positions < self.config.window)
        first = int(torch.cat((useful.any(0), useful.new_ones(1))).int().argmax())
        return kept._replace(
            keys=kept.keys[:, first:],
            values=kept.values[:, first:],
            documents=kept.documents[:, first:],
            positions=kept.positions[:, first:],
        )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        for linear in (self.query, self.key, self.value, self.output):
            linear.weight.normal_(std=INITIAL_STD, generator=generator)
        if self.convolution is not None:
            self.convolution.init_weights(generator)

    def levels(self) -> list[Level]:
        """One level of infinite frequency: the output is recomputed at every token."""
        return [
            Level(
                name="attention",
                period=0,
                per_sequence=True,
                objective="weighted least squares on all pairs (Nadaraya-Watson)",
                rule="closed form at every token",
                context="the keys and values of the document so far",
                transfer=(
                    Transfer(
                        kind="non-parametric", partner="weights", what="reads the stored pairs"
                    ),
                    MADE,
                ),
            )
        ]


def place(
    shape: tuple[int, ...], state: AttentionState, flow: Flow
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"], Int[Tensor, "B"], Int[Tensor, "B"]]:
    """The document index and position of every token; the index and length of the last document.

    A masked position has the position of the next valid token and is not counted.
    """
    positions, seen = positions_of(state.seen, flow, shape[1])
    documents = state.document[:, None].expand(shape)
    if flow.reset is None or not shape[1]:
        return documents, positions, state.document, seen
    documents = documents + flow.reset.long().cumsum(1)
    return documents, positions, documents[:, -1], seen
