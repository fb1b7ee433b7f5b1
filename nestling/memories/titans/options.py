"""Options of Titans: of the long-term memory, and of the attention beside it."""

from dataclasses import dataclass

from nestling.core.error import UserError
from nestling.core.options import refuse_unread
from nestling.memories.attention import Attention


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Options of the long-term memory."""

    layers: int = 2  # layers of the memory's network; 1 is a matrix
    expansion: int = 4  # width of its hidden layers, in head widths
    period: int = 16  # tokens between two anchors, where gradients are taken
    persistent: int = 4  # learned tokens before every document; 0: none
    momentum: bool = True  # False: eta = 0
    decay_to: str = "init"  # decay towards "init", the initial memory, or "zero", as printed
    theta_max: float = 1.0  # largest step, summed over a period
    theta_init: float = 0.5  # the same at the start of training
    momentum_init: float = 0.5  # eta at the start of training
    half_life: tuple[float, float] = (64.0, 16384.0)  # tokens; spread over the heads
    initial_length: float = 0.1  # length of M(k) at the start of training
    recall_start: bool = True  # keys start as queries do, and see the token before
    convolution: int = 4  # tokens the short convolutions see
    epsilon: float = 1.0  # added to |u|^2 of the hidden layers
    clip: float = 4.0  # largest root mean square of an error M(k) - v

    def __post_init__(self):
        for name in ("layers", "expansion", "period", "convolution"):
            if getattr(self, name) < 1:
                raise UserError(f"titans: {name} is {getattr(self, name)}; give at least 1")
        if self.persistent < 0:
            raise UserError(f"titans: persistent is {self.persistent}; give 0 or more tokens")
        if self.decay_to not in ("init", "zero"):
            raise UserError(f"titans: decay_to is {self.decay_to!r}; choose init or zero")
        if not 0 < self.theta_init < self.theta_max:
            raise UserError(
                f"titans: theta_init is {self.theta_init}, theta_max {self.theta_max}; give "
                "0 < theta_init < theta_max"
            )
        if not 0 < self.momentum_init < 1:
            raise UserError(
                f"titans: momentum_init is {self.momentum_init}; give a number between 0 and 1"
            )
        if self.clip <= 0 or self.epsilon <= 0:
            raise UserError(
                f"titans: clip is {self.clip}, epsilon {self.epsilon}; give numbers above 0"
            )
        unread = dict.fromkeys(("expansion", "epsilon"), "layers=1") if self.layers == 1 else {}
        if not self.momentum:
            unread["momentum_init"] = "momentum=false"
        refuse_unread("titans", self, unread)


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(MemoryOptions):
    """Options of the long-term memory and of the attention beside it."""

    num_kv_heads: int | None = None  # heads of keys and values; None: as many as of queries
    rope_theta: float = 10000.0  # base of the rotation's wavelengths


@dataclass(frozen=True, kw_only=True)
class WindowOptions(AttentionOptions):
    """Options of the long-term memory and of attention with a sliding window."""

    window: int = 128  # tokens a query sees, itself included

    def __post_init__(self):
        super().__post_init__()
        if self.window < 1:
            raise UserError(f"titans: window is {self.window}; give at least 1 token")


def attention(
    options: AttentionOptions, window: int | None, *, hidden_size: int, num_heads: int
) -> Attention:
    """The attention that the options ask for."""
    config = Attention.Config(
        num_kv_heads=options.num_kv_heads, window=window, rope_theta=options.rope_theta
    )
    return Attention(config, hidden_size=hidden_size, num_heads=num_heads)
