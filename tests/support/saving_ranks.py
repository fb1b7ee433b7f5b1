"""Checkpoints written by two processes during training."""

import os
import signal
import threading

from tiny_training import tiny_config, tiny_model, tiny_text
from training_ranks import runs

from nestling.core.error import UserError
from nestling.train import Run, together
from nestling.train.checkpoint import model_tensors
from nestling.train.job import loader_of

WANTED = {"model": "transformer-tiny", "optimizer": "m3", "shard": "full"}
WANTED |= {"batch_size": 4, "steps": 6, "save_every": 2, "keep": 6}


def a_run(ranks):
    config = tiny_config(batch_size=4, steps=6)
    model, text = tiny_model("transformer-tiny"), tiny_text()
    run = Run(model, loader_of(text, model, config), config, "m3", ranks.over("full"))
    run.step()
    return run


def held(write):
    """``write`` in a thread that waits for the event."""
    going_on = threading.Event()

    def later(*arguments):
        going_on.wait()
        return write(*arguments)

    return going_on, later


def saves(place, ranks):
    """A save that ends at once, one that lasts a step, one that waits for it, one that fails."""
    run, write = a_run(ranks), together.write_apart
    parts = {"model": model_tensors(run.model), "optimizer": run.optimizer.state_dict()}
    if ranks.first:
        parts["memory"] = {"tokens": 3}
    write(place / "at-once", *together.apart(parts))
    going_on, together.write_apart = held(write)
    run.writer.begin(place / "beside", parts, lambda: None)
    run.step()  # it writes into the same tensors
    begun = (place / "beside").exists()
    threading.Timer(0.05, going_on.set).start()
    run.writer.begin(place / "second", parts, lambda: None)
    waited = (place / "beside").exists()
    run.wait_for_save()
    together.write_apart = write
    (place / "a-file").touch()
    run.save(place / "a-file")
    run.writer._writing.exception()
    run.step()
    failed = run.save_failed
    try:
        run.wait_for_save()
    except UserError as error:
        return {"before_it_went_on": begun, "then": waited, "failed": failed, "error": str(error)}


def killed(place, ranks):
    """A training whose first process is killed while saving step 4, in step 5 or later."""
    settle, later = together.settle, threading.Event()

    def kill(draft, path):
        if path.name.endswith("4"):
            later.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        settle(draft, path)

    step = Run.step

    def watch(run):
        step(run)
        if run.totals.step == 5:
            later.set()

    together.settle, Run.step = kill, watch
    return runs([WANTED | {"folder": str(place / "killed")}], ranks)
