"""The options of the self-modifying Titans."""

from dataclasses import dataclass

from nestling.core.error import UserError
from nestling.core.options import refuse_unread

CHOICES = {
    "network": ("mlp", "matrix"),
    "objective": ("l2", "dot"),
    "values": ("own", "shared"),
    "rule": ("dgd", "gd"),
    "step": ("energy", "proximal", "raw"),
    "rates": ("head", "channel"),
    "read": ("post", "pre", "anchor"),
    "decay_to": ("init", "zero"),
    "erase": ("deviation", "whole"),
}
# options that only say how a write is made
WRITING = (
    "normalised_momentum",
    "momentum_init",
    "half_life",
    "objective",
    "detach_target",
    "rule",
    "step",
    "read",
    "decay_to",
    "erase",
    "eta_max",
    "eta_init",
    "epsilon",
    "clip",
)
PROJECTIONS = ("k", "eta", "alpha", "v", "q")  # what memories can produce, in their order


@dataclass(frozen=True, kw_only=True)
class SelfTitansOptions:
    """Options of the network, its writes and its initialisation."""

    period: int = 32  # tokens between two anchors of the output memory
    projection_period: int = 32  # tokens between two anchors of all other memories
    writes: bool = True  # False: every memory stays at its initial state
    momentum: bool = True  # momentum, from a head on the input
    normalised_momentum: bool = True  # S <- mu S + (1 - mu) write; False: S <- mu S + write
    decay: bool = True  # False: alpha = 1, without a memory for it
    # whether k, v, q and the rates come from memories or directly from the projection (rates: k's)
    adaptive_k: bool = True
    adaptive_v: bool = True
    adaptive_q: bool = False
    adaptive_eta: bool = True
    adaptive_alpha: bool = True
    network: str = "mlp"  # "mlp": two layers; "matrix": one
    memory_hidden: int | None = None  # units of the hidden layer; None: the head width
    objective: str = "l2"  # what a write minimises: "l2" or "dot"
    # "own": each memory learns pairs of k and its own target; "shared": all learn the value v, each
    # with its own output as the key, the output memory with k (Eq 76-82)
    values: str = "own"
    detach_target: bool = (
        True  # targets M(v) are constants; False: a write's gradient also flows through them
    )
    rule: str = "dgd"  # "dgd": with the eraser; "gd": without
    # the step eta of a layer with inputs u is divided by: "energy": epsilon + |u|^2 in the hidden
    # layer, 1 in the first; "proximal": 1 + eta |u|^2 in both; "raw": 1 in both, with no bound
    step: str = "energy"
    rates: str = "head"  # eta and alpha per "head", or per row: "channel"
    read: str = "post"  # read the output after the write, "pre": before it, or at the "anchor"
    decay_to: str = "init"  # "init": the learned initial state; "zero": as printed
    erase: str = "deviation"  # erase only what was written, or of the "whole" weight
    eta_max: float = 1.0  # largest write strength, at most 2
    eta_init: float = 0.2  # write strength at the start of training
    half_life: tuple[float, float] = (64.0, 16384.0)  # tokens; spread over the heads
    momentum_init: float = 0.5  # mu at the start of training
    initial_length: float = 0.1  # length of M(x) - x at the start of training, for unit x
    convolution: int = 4  # tokens the short convolution sees
    epsilon: float = 1.0  # added to |u|^2 of the hidden layer
    clip: float = 4.0  # largest length of an output gradient
    # the same for all memories but the output memory; None: clip. Keys come from a memory that is
    # written at these keys: below about .5 rounding errors do not grow along a text
    projection_clip: float | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"self_titans: {name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(known)}"
                )
        short, long = sorted(self.periods())
        if short < 1 or long % short:
            raise UserError(
                f"self_titans: period is {self.period}, projection_period "
                f"{self.projection_period}; give positive periods of which one divides the other"
            )
        if not 0 < self.eta_max <= 2 or not 0 < self.eta_init < min(self.eta_max, 1):
            raise UserError(
                f"self_titans: eta_init is {self.eta_init}, eta_max {self.eta_max}; give "
                "0 < eta_init < eta_max <= 2 and eta_init < 1"
            )
        for name in ("clip", "projection_clip", "epsilon", "initial_length"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UserError(f"self_titans: {name} is {value}; give a number above 0")
        if not 0 < self.momentum_init < 1:
            raise UserError(
                f"self_titans: momentum_init is {self.momentum_init}; give a number between 0 and 1"
            )
        if min(self.half_life) <= 0:
            raise UserError(
                f"self_titans: half_life is {list(self.half_life)}; give two numbers of tokens "
                "above 0"
            )
        if self.memory_hidden is not None and self.memory_hidden < 1:
            raise UserError(f"self_titans: memory_hidden is {self.memory_hidden}; give at least 1")
        if self.convolution < 1:
            raise UserError(
                f"self_titans: convolution is {self.convolution}; give at least 1 token"
            )
        self._refuse_unread()

    def _refuse_unread(self) -> None:
        # the presets set projection_clip, so it is no mistake if it has no effect
        unread = {}
        if not self.writes:
            unread |= dict.fromkeys(WRITING, "writes=false")
        if not self.momentum:
            unread |= dict.fromkeys(("normalised_momentum", "momentum_init"), "momentum=false")
        if not self.decay:
            unread |= dict.fromkeys(("half_life", "adaptive_alpha"), "decay=false")
        if self.step != "energy":
            unread |= {"epsilon": f"step={self.step}"}
        if self.network == "matrix":
            unread |= dict.fromkeys(("memory_hidden", "epsilon"), "network=matrix")
            if self.step == "raw":
                unread |= {"step": "network=matrix"}
        if self.values == "shared":
            unread |= {"detach_target": "values=shared"}
        if self.decay_to == "zero":
            unread |= {"erase": "decay_to=zero"}
        if self.rule == "gd":
            unread |= {"erase": "rule=gd"}
        if not self.adaptive():
            unread |= {"projection_period": "no other memory"}
        refuse_unread("self_titans", self, unread)

    def adaptive(self) -> list[str]:
        """Which of k, eta, alpha, v and q come from memories, in the order of these."""
        makes = [name for name in PROJECTIONS if getattr(self, f"adaptive_{name}")]
        return [name for name in makes if name != "alpha" or self.decay]

    def periods(self) -> tuple[int, int]:
        """Tokens between two anchors: for the output memory, and for all others."""
        return self.period, self.projection_period if self.adaptive() else self.period

    def clips(self) -> tuple[float, float]:
        """Largest length of an output gradient: for the output memory, and for all others."""
        return self.clip, self.clip if self.projection_clip is None else self.projection_clip
