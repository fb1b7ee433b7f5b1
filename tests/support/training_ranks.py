"""Training runs on several processes, with the variables that ``torchrun`` sets."""

import contextlib
import dataclasses
import json
import os
import socket
from pathlib import Path

from apart import process
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.train import train
from nestling.train.job import held_out_of, loader_of
from nestling.train.ranks import joined


def runs(wanted, ranks):
    """For each run its losses, gradient norms and metrics, or its error.

    A run is {"model", "optimizer", "folder", "resume", "until", settings...}.
    """
    found = []
    for one in wanted:
        settings = dict(one)
        name, optimizer = settings.pop("model"), settings.pop("optimizer", "adamw")
        folder, resume = settings.pop("folder", None), settings.pop("resume", False)
        until, options = settings.pop("until", 0), settings.pop("options", {})
        divided = settings.pop("divide", "rows") == "sequence"
        here = dataclasses.replace(ranks, sequence=divided).over(settings.pop("shard", "none"))
        # in float64, because Newton-Schulz amplifies rounding errors
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


def rank(number, world, port, function, arguments):
    """Call it as one process started by torchrun."""
    told = {"RANK": number, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    function(*arguments)


def launch(world, function, *arguments):
    """Call it in this many processes; errors are raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [process(rank, i, world, port, function, arguments) for i in range(world)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert all(child.exitcode == 0 for child in children)


def stage(place, world, wanted, work=runs):
    """The result of ``work(wanted, ranks)`` on this many processes, from the first one."""
    launch(world, staged, place / f"{world}.json", wanted, work)
    return json.loads((place / f"{world}.json").read_text())


def staged(file, wanted, work):
    """The part of a stage done by one process."""
    with joined() as ranks:
        found = work(wanted, ranks)
        if ranks.first:
            file.write_text(json.dumps(found))


def commanded(place, arguments):
    """A command of `nestling` whose output goes to a file named after the rank."""
    file = place / f"told.{os.environ['RANK']}"
    with file.open("w") as out, contextlib.redirect_stdout(out):
        assert main(list(map(str, arguments))) == 0
