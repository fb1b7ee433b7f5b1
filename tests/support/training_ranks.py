"""A process of a training run: ``torchrun`` starts it with a folder and a JSON list of runs.

A run is {"model", "optimizer", "folder", "resume", "until", settings...}; the losses of each step
and the metrics of each run go to FOLDER/ranks.json.
"""

import json
import sys
from pathlib import Path

import torch
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.train import train
from nestling.train.job import held_out_of, loader_of
from nestling.train.ranks import joined


def runs(wanted, ranks):
    """Of each run the losses of its steps, its gradient norms and its metrics."""
    found = []
    for one in wanted:
        settings = dict(one)
        name, optimizer = settings.pop("model"), settings.pop("optimizer", "adamw")
        folder, resume = settings.pop("folder", None), settings.pop("resume", False)
        until, options = settings.pop("until", 0), settings.pop("options", {})
        model, text, config = tiny_model(name, **options), tiny_text(), tiny_config(**settings)
        steps = []

        def watch(run, steps=steps, until=until):
            steps.append((run.totals.loss, run.totals.grad_norm))
            return run.totals.step == until

        metrics = train(
            model,
            loader_of(text, model, config),
            config,
            directory=folder and Path(folder),
            held_out=held_out_of(text.take(6), model, config),
            resume=resume,
            quiet=True,
            after_step=watch,
            optimizer=optimizer,
            ranks=ranks,
        )
        total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
        found.append({"steps": steps, "weights": total, "val_loss": metrics.get("val_loss")})
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    with joined() as ranks:
        found = runs(wanted, ranks)
        if ranks.first:
            (place / "ranks.json").write_text(json.dumps(found))
