"""nestling adapt: make a pretrained model one that can go on learning."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Divide the MLPs of a trained model into levels, each written at a period of its own.

    The weights stay what they are: until it reads, the adapted model computes what it did before.
    """

    model: tyro.conf.Positional[str]
    """Folder of a Hugging Face model, a .gguf file, an id of the hub, or smollm2-135m-instruct."""
    out: Path
    """Folder for the adapted model."""
    levels: str = "64,512"
    """Levels as period[:lr[:rule[:share]]],...; periods in tokens, `inf` for what is never written;
    a level with a share is reset when the next slower one is written (docs/continual.md)."""
    variant: str = "partition"
    """partition (MLPs are shared out by layers), whole (the layers themselves are), chain or
    independent (each layer gets every level)."""
    layers: str | None = None
    """Layers of each level, slow to fast, such as 0-9,10-19,20-29; by default equal shares."""

    def run(self) -> None:
        """Write the folder and print what each level holds."""
        from nestling.models.pretrained import load_base, parse_levels, save_stacked, with_layers
        from nestling.report import Table

        levels = with_layers(parse_levels(self.levels), self.layers)
        base = load_base(self.model)
        if base.tokenizer is None:
            print(f"warning: {self.model} has no tokenizer; put one beside the model to use it")
        whole = save_stacked(base, levels, self.variant, self.out)
        sizes = {name: value.numel() for name, value in whole.model.named_parameters()}
        rows = [
            (spec.text, f"{sum(sizes[name] for name in names):,}", f"{names[0]} ... {names[-1]}")
            for spec, names in zip(whole.levels, whole.parameters, strict=True)
        ]
        print(Table(columns=("level", "parameters", "from ... to"), rows=rows).text())
        print(f"{base.model_type}, {sum(sizes.values()):,} parameters, in {self.out}")
