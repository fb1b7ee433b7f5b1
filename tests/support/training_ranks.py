"""Training runs on several processes, with the variables that ``torchrun`` sets.

    python training_ranks.py FOLDER STAGES

STAGES is a JSON list of [processes, runs], one after another; a run is {"model", "optimizer",
"folder", "resume", "until", settings...}. The losses of each step and the metrics of each run go to
FOLDER/PROCESSES.json. The processes are forks of this one, which has imported all that they need.
"""

import dataclasses
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.core.error import UserError
from nestling.train import train
from nestling.train.job import held_out_of, loader_of
from nestling.train.ranks import joined


def runs(wanted, ranks):
    """Of each run the losses of its steps, its gradient norms and its metrics, or its error."""
    found = []
    for one in wanted:
        settings = dict(one)
        name, optimizer = settings.pop("model"), settings.pop("optimizer", "adamw")
        folder, resume = settings.pop("folder", None), settings.pop("resume", False)
        until, options = settings.pop("until", 0), settings.pop("options", {})
        divided = settings.pop("divide", "rows") == "sequence"
        here = dataclasses.replace(ranks, sequence=divided).over(settings.pop("shard", "none"))
        # in float64, for Newton-Schulz makes much of roundings
        model, text = tiny_model(name, **options).double(), tiny_text()
        config = tiny_config(**settings)
        steps = []

        def watch(run, steps=steps, until=until):
            steps.append((run.totals.loss, run.totals.grad_norm))
            return run.totals.step == until

        try:
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
                ranks=here,
            )
        except UserError as error:
            found.append({"error": str(error)})
            continue
        model = here.whole_model(model)
        total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
        found.append({"steps": steps, "weights": total, "val_loss": metrics.get("val_loss")})
    return found


def rank(number, world, port, place, wanted, work):
    """What one process does."""
    torch.set_num_threads(1)
    told = {"RANK": number, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    with joined() as ranks:
        found = work(wanted, ranks)
        if ranks.first:
            (place / f"{world}.json").write_text(json.dumps(found))


def stage(place, world, wanted, work=runs):
    """Do ``work(wanted, ranks)`` on that many processes; an error in one is an error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=rank, args=(i, world, port, place, wanted, work)) for i in range(world)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert all(child.exitcode == 0 for child in children)


if __name__ == "__main__":
    for world, wanted in json.loads(sys.argv[2]):
        stage(Path(sys.argv[1]), world, wanted)
