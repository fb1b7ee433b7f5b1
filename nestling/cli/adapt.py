"""nestling adapt: prepare a pretrained model for continual learning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Choose which weights of a model learn: by study of each text, or as levels with periods.

    The weights do not change: until it learns, the adapted model computes what it did before.
    """

    model: tyro.conf.Positional[str]
    """Folder of a Hugging Face model, a .gguf file, an id of the hub, or smollm2-135m-instruct."""
    out: Path
    """Folder for the adapted model."""
    levels: str | None = None
    """Levels as period[:lr[:rule[:share]]],...; periods in tokens, `inf` for weights that are never
    written; a level with a share is reset when the next slower one is written (docs/continual.md).
    Without this option texts are studied (variant low-rank)."""
    variant: str | None = None
    """low-rank (the default: study adds a low-rank change for each document), partition (the MLPs
    are divided among the levels by layer; the default with --levels), whole (so are entire layers),
    chain or independent (each layer gets every level)."""
    layers: str | None = None
    """Layers of each level, slow to fast, such as 0-9,10-19,20-29; by default equal shares, and for
    low-rank the upper three eighths."""
    rank: int | None = None
    """low-rank: the rank of a document's change to each matrix."""

    def run(self) -> None:
        """Write the folder and print what each level holds."""
        from nestling.models.pretrained import load_base, save_stacked
        from nestling.report import Table

        levels, variant = self._levels()
        base = load_base(self.model)
        if base.tokenizer is None:
            print(f"warning: {self.model} has no tokenizer; put one beside the model to use it")
        whole = save_stacked(base, levels, variant, self.out)
        sizes = {name: value.numel() for name, value in whole.model.named_parameters()}
        rows = [
            (spec.text, f"{sum(sizes[name] for name in names):,}", f"{names[0]} ... {names[-1]}")
            for spec, names in zip(whole.levels, whole.parameters, strict=True)
        ]
        print(Table(columns=("level", "parameters", "from ... to"), rows=rows).text())
        print(f"{base.model_type}, {sum(sizes.values()):,} parameters, in {self.out}")

    def _levels(self) -> tuple[Any, str]:
        """The levels and their variant; a combination that makes no sense raises UserError."""
        from nestling.core.error import UserError
        from nestling.models.pretrained import parse_levels, studied_level, with_layers

        variant = self.variant or ("partition" if self.levels else "low-rank")
        if variant == "low-rank":
            if self.levels:
                raise UserError(
                    "variant low-rank has one level, learned by study; leave out levels"
                )
            return with_layers((studied_level(self.rank),), self.layers), variant
        if self.rank is not None:
            raise UserError(f"variant {variant} has no rank; leave it out, or use low-rank")
        return with_layers(parse_levels(self.levels or "64,512"), self.layers), variant
