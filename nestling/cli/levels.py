"""nestling levels: the levels of a model and its optimizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Print every level, fast to slow: when it is written, from what, and by which rule."""

    model: tyro.conf.Positional[str]
    """Preset (see `nestling list presets`), or folder of `nestling train`."""
    optimizer: str = "adamw"
    """Optimizer; see `nestling list optimizers`."""
    tokens_per_step: int | None = None
    """Tokens of a stream per optimizer step; periods are rounded up to a multiple of it."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: an option of the preset (writes=false); can be repeated."""
    json: Path | None = None
    """File for the levels, as JSON."""
    svg: Path | None = None
    """File for a drawing of the levels, as SVG."""

    def run(self) -> None:
        """Print the system, and write it where --json and --svg say."""
        from nestling.cli.train import settings
        from nestling.core.result import Result, write_whole
        from nestling.models import create, preset_names
        from nestling.models.folder import load_model
        from nestling.report.levels import levels_svg, levels_text
        from nestling.train.config import TrainConfig
        from nestling.train.levels import as_record, nested_system

        if self.tokens_per_step is not None and self.tokens_per_step < 1:
            raise UserError(f"--tokens-per-step is {self.tokens_per_step}; give at least 1")
        chosen = settings(self.set)
        trained = self.model not in preset_names() and Path(self.model).is_dir()
        if trained and chosen:
            raise UserError(
                f"{self.model} is a folder, whose model has its options; leave out --set"
            )
        model = load_model(Path(self.model))[0] if trained else create(self.model, **chosen)
        tokens = self.tokens_per_step or TrainConfig().tokens_per_step
        system = nested_system(model, self.optimizer, tokens)
        count = model.num_parameters()
        how = "if trained by" if trained else "trained by"
        title = f"{self.model} {how} {self.optimizer}, {tokens:,} tokens per stream and step"
        print(f"{title}; {count:,} parameters\n")
        print(levels_text(system))
        if self.json is not None:
            names = {"preset": self.model, "optimizer": self.optimizer, "tokens_per_step": tokens}
            metrics = {"num_parameters": count, "levels": as_record(system)}
            Result(name="levels", config=names | {"model": chosen}, metrics=metrics).write(
                self.json
            )
        if self.svg is not None:
            write_whole(self.svg, levels_svg(system, title).encode())
