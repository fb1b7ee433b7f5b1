"""nestling plan: what a training run will take before it is started."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

LABELS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "states": "memory of the rows",
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Count parameters and operations, and tell memory by part, speed and days of a training."""

    preset: tyro.conf.Positional[str]
    """Model; `nestling list` names them."""
    gpus: int = 1
    """Processes with a device each."""
    sequence: int = 2048
    """Tokens of a row of a batch."""
    batch: int = 8
    """Rows of a batch of the whole job."""
    optimizer: str = "adamw"
    """What trains it; `nestling list optimizers` names them."""
    shard: str = "none"
    """Processes that hold one model between them, as `nestling train` has it: none, full, N."""
    tokens: float | None = None
    """Tokens to train on in all; by default 20 a parameter."""
    utilisation: float = 0.4
    """Fraction of a device's operations that is reached."""
    flops: float = 989e12
    """Operations a second of a device (989e12: dense bfloat16 of an H100)."""
    vocab_size: int = 32000
    """Tokens of the vocabulary."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: an option of the model (writes=false), or recompute=true; may be repeated."""
    json: Path | None = None
    """File for the same as a Result."""

    def run(self) -> None:
        """Print the plan, and write it where --json says."""
        import dataclasses

        from nestling.cli.train import settings
        from nestling.core.error import UserError
        from nestling.core.result import Result
        from nestling.models import configure
        from nestling.train.plan import plan
        from nestling.train.ranks import shards_of

        chosen = settings(self.set)
        recompute = chosen.pop("recompute", False)
        if not isinstance(recompute, bool):
            raise UserError(f"recompute is {recompute!r}; give true or false")
        found = plan(
            configure(self.preset, vocab_size=self.vocab_size, **chosen),
            gpus=self.gpus,
            sequence=self.sequence,
            batch=self.batch,
            optimizer=self.optimizer,
            shard=shards_of(self.shard, self.gpus),
            tokens=self.tokens,
            utilisation=self.utilisation,
            flops=self.flops,
            recompute=recompute,
        )
        print(f"{'parameters':<20} {found.parameters:,}")
        print(f"{'operations a token':<20} {found.flops:,.0f}")
        for name, label in LABELS.items():
            print(f"{label:<20} {getattr(found, name) / 2**30:,.3f} GiB")
        print(f"{'at the most':<20} {found.memory / 2**30:,.3f} GiB")
        print(f"{'tokens a second':<20} {found.speed:,.0f}")
        print(f"{'days':<20} {found.days:,.2f}")
        if self.json is not None:
            config = {k: v for k, v in dataclasses.asdict(self).items() if k != "json"}
            Result(name="plan", config=config, metrics=dataclasses.asdict(found)).write(self.json)
