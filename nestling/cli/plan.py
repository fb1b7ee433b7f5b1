"""nestling plan: estimate what a training run needs before starting it."""

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
    """Count parameters and operations; estimate memory by part, speed, and days of training."""

    preset: tyro.conf.Positional[str]
    """Model; see `nestling list presets`."""
    gpus: int = 1
    """Number of devices, one process each."""
    sequence: int = 2048
    """Tokens in a row of the batch."""
    batch: int = 8
    """Rows in the global batch."""
    optimizer: str = "adamw"
    """Optimizer; see `nestling list optimizers`."""
    shard: str = "none"
    """How many processes share one copy of the model, as in `nestling train`: none, full or N."""
    tokens: float | None = None
    """Training tokens in total; 20 per parameter by default."""
    utilisation: float = 0.4
    """Fraction of a device's peak operations that is reached."""
    flops: float = 989e12
    """Peak operations per second of a device (989e12: dense bfloat16 on an H100)."""
    vocab_size: int = 32000
    """Vocabulary size."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: an option of the model (writes=false), or recompute=true; can be repeated."""
    json: Path | None = None
    """File for the plan, as JSON."""

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
