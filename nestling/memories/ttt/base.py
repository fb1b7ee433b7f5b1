"""The base of the test-time training layers: projections, mini-batches and inner training."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.options import refuse_unread
from nestling.core.transfer import LEARNED, MADE, READ
from nestling.memories.parts import ShortConvolution
from nestling.memories.ttt.inner import (
    Inner,
    Layer,
    gelu,
    zeros,
)
from nestling.memories.ttt.training import Standing, Teacher

INITIAL_STD = 0.02
BACKBONES = ("mamba", "transformer")


@traceable
class TTTState(NamedTuple):
    """The state of a row between calls."""

    mixer_tail: Float[Tensor, "B W C"]  # last inputs of the convolution before the layer
    tail: Float[Tensor, "B W C"]  # last inputs of the convolutions of q and k; empty without them
    anchor: Inner  # the inner model at the start of the mini-batch
    total: Inner  # its gradients at the mini-batch's tokens so far, times their rates
    count: Int[Tensor, " B"]  # tokens of the row's document so far


@dataclass(frozen=True, kw_only=True)
class TTTConfig:
    """Options of both test-time training layers."""

    mini_batch: int = 16  # tokens whose gradients are taken at the same weights
    eta_base: float = 1.0  # learning rate of the inner model for a gate of one
    backbone: str = "mamba"  # "mamba": convolutions, shared q and k projection, gate; "transformer"
    convolution: int = 4  # tokens each convolution sees
    rope_theta: float = 10000.0  # base of the rotation's wavelengths, in tokens

    def __post_init__(self):
        if self.mini_batch < 1 or self.convolution < 1:
            raise UserError(
                f"ttt: mini_batch is {self.mini_batch}, convolution {self.convolution}; give at "
                "least 1 token"
            )
        if self.eta_base <= 0:
            raise UserError(f"ttt: eta_base is {self.eta_base}; give a number above 0")
        if self.backbone not in BACKBONES:
            raise UserError(
                f"ttt: backbone is {self.backbone!r}; choose one of {', '.join(BACKBONES)}"
            )
        if self.backbone == "transformer":
            refuse_unread("ttt", self, {"convolution": "backbone=transformer"})


class TTT(Memory):
    """A memory whose state is a network, trained with a gradient step on each token.

    For each head, with the inner model ``f(x) = x + LN(net(x))`` and mini-batches of b tokens:

        g_s = gradient of |f(k_s; W) - v_s|^2 / 2 at W, the start of the mini-batch
        G_t = sum of eta_s g_s over the tokens s <= t of the mini-batch
        W_t = W - c_j G_t          j the place of t in its mini-batch, 1 .. b
        y_t = f(q_t; W_t)          the next mini-batch starts with the W_t of j = b

    ``eta = eta_base sigmoid(theta x) / d`` for heads of width d, ``c_j = max(0, 1 / j + learned)``.
    q and k are rotated by j - 1. A mini-batch consists of matrix products only: the gradients of
    earlier tokens change a layer's output by ``tril(x u^T + 1) (eta g)`` (the dual form), u being
    the layer's inputs at the keys and 1 the bias.

    With ``backbone="mamba"`` (as in the published models of every size) the stream first goes
    through a convolution, ``x <- x + conv(RMSNorm(x))``; q and k are convolutions of one
    projection; and ``output(gelu(gate(x)) LN(y))`` is added to the stream. ``"transformer"`` has
    none of the three, and separate projections for q and k.

    Source: arXiv 2407.04620, sections 2.3-2.7, and its public code for what the text leaves open:
    the 1/2, the 1 / d, the learned c_j, the place of the rotation. Deviates: W_0 of every layer has
    standard deviation 0.02 (the JAX code divides that of the last by the root of twice the depth);
    no warm-up of eta_base; the gradients of an unfinished mini-batch are dropped with its document.
    Cost: time O(P + b d) per token and head, P the parameters of the inner model; state 2 P. Where
    it can be compiled, the scan is that of nestling/ops/ttt.
    """

    residual: ClassVar[bool] = False
    source: ClassVar[str] = "arXiv 2407.04620"
    float32: ClassVar[tuple[str, ...]] = (
        *("initial_weights", "initial_biases", "inner_scale", "inner_shift"),
        *("eta_weight", "eta_bias", "token_scale"),
    )
    name: ClassVar[str]

    def __init__(self, config: TTTConfig, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.alignment = config.mini_batch
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        if hidden_size % num_heads or self.head_size % 2:
            raise UserError(
                f"hidden_size {hidden_size} does not split into {num_heads} heads of even width"
            )
        self._build_projections(hidden_size)
        sizes = self.layer_sizes(self.head_size)
        pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
        # biases and norms of all heads in one row, as in a norm over the full width
        self.initial_weights = nn.ParameterList(
            torch.empty(num_heads, after, before) for before, after in pairs
        )
        self.initial_biases = nn.ParameterList(torch.empty(num_heads * after) for _, after in pairs)
        self.inner_scale = nn.Parameter(torch.empty(hidden_size))
        self.inner_shift = nn.Parameter(torch.empty(hidden_size))
        self.eta_weight = nn.Parameter(torch.empty(num_heads, hidden_size))
        self.eta_bias = nn.Parameter(torch.empty(num_heads))
        self.token_scale = nn.Parameter(torch.empty(config.mini_batch))

    def _build_projections(self, hidden_size: int) -> None:
        mamba, width = self.config.backbone == "mamba", self.config.convolution
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.key = self.gate = self.mixer = self.mixer_norm = self.convolution = None
        if mamba:
            plain = {"bias": True, "activation": False}
            self.gate = nn.Linear(hidden_size, hidden_size, bias=False)
            self.mixer_norm = nn.RMSNorm(hidden_size, eps=1e-6)
            self.mixer = ShortConvolution(hidden_size, width, **plain)
            self.convolution = ShortConvolution(2 * hidden_size, width, **plain)
        else:
            self.key = nn.Linear(hidden_size, hidden_size, bias=False)

    @staticmethod
    @abstractmethod
    def layer_sizes(width: int) -> tuple[int, ...]:
        """Widths of the inner model's layers, first input to last output, for this head width."""

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """As published: matrices of standard deviation 0.02, norms of one, biases of zero."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, INITIAL_STD, generator=generator)
            elif isinstance(module, ShortConvolution):
                module.init_weights(generator)
            elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
                module.reset_parameters()
        for weight in (*self.initial_weights, self.eta_weight):
            weight.normal_(0, INITIAL_STD, generator=generator)
        for bias in (*self.initial_biases, self.eta_bias, self.inner_shift, self.token_scale):
            bias.zero_()
        self.inner_scale.fill_(1)

    def _initial(self) -> Inner:
        """The learned initial model, at least float32."""
        dtype = torch.promote_types(self.eta_weight.dtype, torch.float32)
        pairs = zip(self.initial_weights, self.initial_biases, strict=True)
        return tuple(
            Layer(weight.to(dtype), bias.to(dtype).view(self.num_heads, -1))
            for weight, bias in pairs
        )

    def init_state(self, batch: int) -> TTTState:
        """The state before the first token: the learned initial model, no gradients."""
        anchor = tuple(Layer(*(x.expand(batch, *x.shape) for x in y)) for y in self._initial())
        empty = self.query.weight.new_zeros(batch, 0, 0)
        return TTTState(
            empty if self.mixer is None else self.mixer.init_tail(batch),
            empty if self.convolution is None else self.convolution.init_tail(batch),
            anchor,
            zeros(anchor),
            torch.zeros(batch, dtype=torch.long, device=empty.device),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: TTTState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], TTTState]:
        """Train on every token and read; norms and residuals included."""
        state = self.init_state(len(x)) if state is None else state
        if not x.shape[1]:
            return x, state
        mixer_tail = state.mixer_tail
        if self.mixer is not None and self.mixer_norm is not None:
            mixed, mixer_tail = self.mixer(self.mixer_norm(x), mixer_tail, flow)
            x = x + mixed
        inputs = self.norm(x)
        qk, v, tail = self._project(inputs, state.tail, flow)
        with torch.autocast(x.device.type, enabled=False):
            y, standing = self._train(inputs, qk, v, state, flow)
        y = self.output_norm(y.to(x.dtype))
        if self.gate is not None:
            y = gelu(self.gate(inputs)) * y
        return x + self.output(y), TTTState(mixer_tail, tail, *standing)

    def _project(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B W C"], flow: Flow
    ) -> tuple[Float[Tensor, "B T 2 H K"], Float[Tensor, "B T H K"], Float[Tensor, "B W C"]]:
        q = self.query(x)
        if self.convolution is not None:
            qk, tail = self.convolution(torch.cat((q, q), dim=-1), tail, flow)
        else:
            assert self.key is not None
            qk = torch.cat((q, self.key(x)), dim=-1)
        shape = (self.num_heads, self.head_size)
        return qk.unflatten(-1, (2, *shape)), self.value(x).unflatten(-1, shape), tail

    def _train(
        self,
        x: Float[Tensor, "B T D"],
        qk: Float[Tensor, "B T 2 H K"],
        v: Float[Tensor, "B T H K"],
        state: TTTState,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T D"], Standing]:
        """Train one mini-batch after the other, in float32 or wider."""
        dtype = torch.promote_types(self.eta_weight.dtype, torch.float32)
        eta = functional.linear(x.to(dtype), self.eta_weight.to(dtype), self.eta_bias.to(dtype))
        eta = eta.sigmoid() * (self.config.eta_base / self.head_size)
        shape = (self.num_heads, self.head_size)
        teacher = Teacher(
            self._initial(),
            self.layer_sizes(self.head_size),
            self.inner_scale.to(dtype).view(shape),
            self.inner_shift.to(dtype).view(shape),
            self._token_scales(dtype),
            self.config.rope_theta,
        )
        standing = Standing(state.anchor, state.total, state.count)
        y, standing = teacher.train(qk.to(dtype), v.to(dtype), eta, standing, flow)
        return y.flatten(-2), standing

    def _token_scales(self, dtype: torch.dtype) -> Float[Tensor, " b"]:
        """The factor c of the summed gradients, by place in the mini-batch."""
        learned = self.token_scale.to(dtype)
        return (1 / torch.arange(1, len(learned) + 1).to(learned) + learned).clamp(min=0)

    def levels(self) -> list[Level]:
        """The inner model, read at every token; its gradients' weights, once per mini-batch."""
        sizes = (p.numel() for p in (*self.initial_weights, *self.initial_biases))
        period = self.config.mini_batch
        return [
            Level(
                name=self.name,
                period=1,
                parameters=sum(sizes),
                per_sequence=True,
                objective="|f(k) - v|^2 / 2",
                rule=f"gradient descent, gradients at the weights of every {period} tokens",
                context="pairs (k, v) of the tokens of the document so far",
                transfer=(READ, MADE, LEARNED),
            )
        ]
