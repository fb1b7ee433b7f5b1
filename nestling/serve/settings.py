"""The settings of a server: address, store, and limits."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for one client."""

    body: int = 4_000_000  # bytes of a request, but for the upload of a memory
    upload: int = 2_000_000_000  # bytes of a memory that is uploaded
    document: int = 1_000_000  # characters of a text to learn
    prompt: int = 32_768  # tokens, for a model that has no limit of its own
    tokens: int = 2048  # written for one answer
    rows: int = 8  # answers of one request (prompts times n), and of one batch
    waiting: int = 64  # answers that are begun or wait
    rate: int = 600  # requests a minute, for each key
    memories: int = 100  # in a name space
    jobs: int = 20  # that wait, in a name space
    seconds: float = 300.0  # for one answer
    quiet: float = 20.0  # seconds that a client may take to send the next part, or to take it

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
    budget: int | None = None  # most writes of study for a document

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
