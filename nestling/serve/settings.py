"""The settings of a server: address, store, and limits."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for one client."""

    body: int = 4_000_000  # bytes of a request, except uploads of memories
    upload: int = 2_000_000_000  # bytes of a memory that is uploaded
    document: int = 1_000_000  # characters of a text to learn
    prompt: int = 32_768  # tokens of context, for a model without its own limit
    tokens: int = 2048  # maximum tokens of one answer
    rows: int = 8  # answers of one request (prompts times n), and of one batch
    waiting: int = 64  # answers running or waiting
    rate: int = 600  # requests a minute, for each key
    memories: int = 100  # memories per namespace
    jobs: int = 20  # waiting jobs per namespace
    seconds: float = 300.0  # seconds for one answer
    quiet: float = 20.0  # seconds for a client to send or receive the next part

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"the limit {name} must be above 0, not {value}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server: store, address, limits, study."""

    store: Path  # folder of the registry and of memory files
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = Limits()
    study: str | None = None  # a name of nestling.continual.study.plan.PLANS; None: "full"
    budget: int | None = None  # maximum study steps per document

    @property
    def local(self) -> bool:
        """Whether the address is reachable only from this machine.

        >>> Settings(store=Path("x")).local, Settings(store=Path("x"), host="0.0.0.0").local
        (True, False)
        """
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False
