"""A self-referential weight matrix: it produces its own keys and rewrites itself."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.transfer import LEARNED, Transfer

INITIAL_STD = 0.02
STRETCH = 32  # tokens between two matrices kept for the backward pass; no effect on results
RATES = 4  # one for each part of the matrix


@traceable
class SRWMState(NamedTuple):
    """The current matrix minus the learned initial one, at least float32."""

    deviation: Float[Tensor, "B H R K"]


class SRWM(Memory):
    """A matrix per head that programs itself; R = 3 K + 4 rows, K the head width.

        [y, q, k, beta] = W phi(x)                                     phi = softmax
        W <- W + sigmoid(beta) (W phi(q) - W phi(k)) phi(k)^T          W_0 learned

    with four rates beta: for the rows of W that make y, q, k and beta. The value written under k
    is what W itself returns for q. All reads come before the token's own write.

    Each token's keys depend nonlinearly on the matrix that the earlier tokens have written, so
    there is no form that is parallel in time, only a loop over tokens. The backward pass recomputes
    stretches of 32 tokens and so holds T / 32 + 32 matrices instead of T.

    Nothing bounds the writes: with heads of width 4 and random inputs, W grew to some 30 times its
    initial entries in 10,000 tokens, and overflowed with ``input_softmax=False``. With heads of
    width 64 it hardly moved before training.

    Source: arXiv 2202.05780 and the authors' layer: four rates, heads cut from the input,
    W_0 of variance 1 / K, the rows of the rates around -1. Deviates: the backbone's RMSNorm in
    place of LayerNorm; the state is a deviation from W_0, so that W_0 still gets a gradient after
    the state is detached.
    Cost: time O(R K) per token and head for each of two reads and a write, R = 3 K + 4, in T
    sequential steps; state R K per head.
    """

    update: ClassVar[str] = (
        "[y, q, k, beta] = W phi(x); W <- W + sigmoid(beta) (W phi(q) - W phi(k)) phi(k)^T"
    )
    source: ClassVar[str] = "arXiv 2202.05780"
    float32: ClassVar[tuple[str, ...]] = ("initial_weight",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        input_softmax: bool = True  # False: W reads x itself, as the authors' code can
        initial_rate: float = -1.0  # beta at the start of training, before the sigmoid

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {num_heads} heads")
        self.config = config
        self.num_heads = num_heads
        width = hidden_size // num_heads
        self.parts = (width, width, width, RATES)  # rows that make y, q, k, beta
        self.initial_weight = nn.Parameter(torch.empty(num_heads, sum(self.parts), width))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_state(self, batch: int) -> SRWMState:
        """All zero: nothing written."""
        dtype = torch.promote_types(self.initial_weight.dtype, torch.float32)
        return SRWMState(
            self.initial_weight.new_zeros(batch, *self.initial_weight.shape, dtype=dtype)
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: SRWMState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], SRWMState]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, state.deviation.dtype)
            initial = self.initial_weight.to(dtype)
            weight = initial + state.deviation.to(dtype)
            features = x.to(dtype).unflatten(-1, (self.num_heads, -1))
            if self.config.input_softmax:
                features = features.softmax(-1)
            outputs = []
            for begin in range(0, x.shape[1], STRETCH):
                here = slice(begin, begin + STRETCH)
                reset = None if flow.reset is None else flow.reset[:, here]
                mask = None if flow.mask is None else flow.mask[:, here]
                parts = (features[:, here], weight, initial, reset, mask)
                if torch.is_grad_enabled() and x.shape[1] > STRETCH:
                    y, weight = checkpoint(
                        self._stretch, *parts, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    y, weight = self._stretch(*parts)
                outputs.append(y)
            state = SRWMState(weight - initial)
        y = torch.cat(outputs, dim=1).flatten(2).to(x.dtype) if outputs else x
        return self.output(y), state

    def _stretch(
        self,
        features: Float[Tensor, "B C H K"],
        weight: Float[Tensor, "B H R K"],
        initial: Float[Tensor, "H R K"],
        reset: Bool[Tensor, "B C"] | None,
        mask: Bool[Tensor, "B C"] | None,
    ) -> tuple[Float[Tensor, "B C H K"], Float[Tensor, "B H R K"]]:
        """Loop over the tokens of one stretch."""
        outputs = []
        for t in range(features.shape[1]):
            if reset is not None:
                weight = torch.where(reset[:, t, None, None, None], initial, weight)
            made = read(weight, features[:, t])
            y, q, k, beta = made.split(self.parts, dim=-1)
            outputs.append(y)
            q, k = q.softmax(-1), k.softmax(-1)
            rate = torch.sigmoid(beta)
            if mask is not None:
                rate = rate * mask[:, t, None, None]
            rates = zip(rate.split(1, -1), self.parts, strict=True)
            wide = [one.expand(*one.shape[:-1], rows) for one, rows in rates]
            change = torch.cat(wide, -1) * read(weight, q - k)
            weight = torch.addcmul(weight, change[..., None], k[..., None, :])
        return torch.stack(outputs, dim=1), weight

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Rows of variance 1 / K; those of the rates around ``initial_rate``; output 0.02."""
        self.initial_weight.normal_(
            std=1 / math.sqrt(self.initial_weight.shape[-1]), generator=generator
        )
        # phi sums to one, so this is also the mean of the rates
        self.initial_weight[:, -RATES:] += self.config.initial_rate
        self.output.weight.normal_(std=INITIAL_STD, generator=generator)

    def levels(self) -> list[Level]:
        """One matrix that writes itself at every token."""
        return [
            Level(
                name="W",
                period=1,
                parameters=self.initial_weight.numel(),
                per_sequence=True,
                objective="|W phi(k) - v|^2 / 2 with v = W phi(q)",
                rule="delta rule; keys, values and rates are made by the matrix itself",
                context="the inputs of the document so far",
                transfer=(
                    Transfer(kind="direct", partner="weights", what="the input is the query"),
                    LEARNED,
                ),
            )
        ]


def read(weight: Float[Tensor, "B H R K"], x: Float[Tensor, "B H K"]) -> Float[Tensor, "B H R"]:
    """``weight x``, computed as a row times the transpose, which is much faster on a CPU."""
    return (x[..., None, :] @ weight.mT)[..., 0, :]
