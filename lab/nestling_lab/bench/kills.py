"""Kills a training at random moments and resumes it until it ends."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from nestling.core.error import UserError
from nestling_lab.bench.forked import Processes
from nestling_lab.bench.turns import say

TEXT = "\n\n".join(f"{i} and {i + 1} are {2 * i + 1}. " * (1 + i % 9) for i in range(400))
SMALL = ("num_hidden_layers=1", "hidden_size=64", "batch_size=4", "sequence_length=64")
SMALL += ("evaluate_tokens=500", "save_every=5")
LONGEST = 600.0  # seconds, time limit of a run
ENDED = 60.0  # seconds within which all processes must end after one is killed
LOOK = 0.002  # seconds between two reads of a log


class Killed(NamedTuple):
    """The state of a run when it was killed."""

    step: int  # the last step in the log
    saved: int  # the step of the newest checkpoint; 0 without one
    drafts: frozenset[str]  # names of unfinished checkpoints
    seconds: float  # until all processes had ended


def kills(
    folder: Path,
    *,
    preset: str = "hope-tiny",
    optimizer: str = "adamw",
    times: int = 20,
    steps: int = 200,
    ranks: int = 1,
    shard: str = "none",
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Kill a training ``times`` times (SIGKILL), and compare it with an uninterrupted one.

    A process is killed at a random fraction of a step after logging a step drawn from those to
    come, so during a step or a save. A draw beyond the last step lets the run end, and the next one
    starts from scratch; the last one runs to its end. With several ``ranks`` one of them is killed,
    which ends the others. Returns, for each kill, the last logged step and the step it resumed
    from; how many kills left an unfinished checkpoint; how many runs ended; how many of those have
    exactly the weights of the uninterrupted run; and the largest difference relative to the largest
    weight of a tensor. Raises UserError if a run cannot be resumed.
    """
    train = _command(folder, preset, optimizer, steps, shard)
    told, whole, begin = folder / "told.txt", folder / "whole", time.monotonic()
    _finish(Processes([*train, "--out", str(whole)], ranks=ranks, told=told), told)
    pace = _lines(whole)[-1]["seconds"] / steps
    draw, killed, ended, broken = random.Random(seed), list[Killed](), list[float](), False
    while len(killed) < times or broken or not ended:
        out = folder / f"run-{len(ended)}"
        run = Processes([*train, "--out", str(out)], ranks=ranks, told=told)
        step = logged(out) + draw.randint(1, max(1, 2 * steps // times))
        if len(killed) < times and step <= steps and reaches(run.running, out, step):
            time.sleep(draw.uniform(0, pace))
            if (one := _kill(run, draw, out)) is not None:
                killed.append(one)
                broken = True
                say(f"killed after step {one.step}, resuming from {one.saved}", quiet)
                continue
        _finish(run, told)
        ended.append(difference(whole, out))
        broken = False
        say(f"ended; largest difference {ended[-1]}", quiet)
    return {
        "killed_after_step": [one.step for one in killed],
        "went_on_from_step": [one.saved for one in killed],
        "killed_while_saving": len(set().union(*(one.drafts for one in killed))),
        "seconds_until_all_ended": max(one.seconds for one in killed),
        "runs": len(ended),
        "equal_to_the_bit": sum(one == 0 for one in ended),
        "largest_difference": max(ended),
        "seconds_of_a_step": pace,
        "seconds": time.monotonic() - begin,
    }


def _command(folder: Path, preset: str, optimizer: str, steps: int, shard: str) -> list[str]:
    """The command that trains a small model on a text, which is written to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    train = ["train", "--preset", preset, "--optimizer", optimizer, "--corpus", str(text)]
    train += ["--tokenizer", "bytes", "--steps", str(steps), "--shard", shard, "--quiet"]
    return [*train, "--resume", *(part for pair in SMALL for part in ("--set", pair))]


def _finish(run: Processes, told: Path) -> None:
    codes = run.wait(LONGEST)
    if any(codes):
        said = told.read_text(encoding="utf-8", errors="replace").splitlines()
        raise UserError(f"a run ended with exit codes {codes}: {(said or ['no output'])[-1]}")


def reaches(running: Callable[[], bool], out: Path, step: int) -> bool:
    """Wait until the run in ``out`` has logged ``step``; False if it is no longer running."""
    begin = time.monotonic()
    while logged(out) < step:
        if not running():
            return False
        if time.monotonic() - begin > LONGEST:
            raise UserError(f"the run in {out} has not reached step {step} in {LONGEST:.0f} s")
        time.sleep(LOOK)
    return True


def _kill(run: Processes, draw: random.Random, out: Path) -> Killed | None:
    """Kill one process and wait for the others to end; None if they had ended before."""
    begin = time.monotonic()
    draw.choice(run.all).kill()
    if not any(run.wait(ENDED)):
        return None
    drafts = frozenset(path.name for path in out.glob("checkpoints/.step-*"))
    return Killed(logged(out), _saved(out), drafts, time.monotonic() - begin)


def _lines(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without a truncated last one."""
    path = out / "log.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def logged(out: Path) -> int:
    """The highest step in the log of a run; 0 without any."""
    return max((line["step"] for line in _lines(out)), default=0)


def _saved(out: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    names = sorted(path.name for path in out.glob("checkpoints/step-*"))
    return int(names[-1].removeprefix("step-")) if names else 0


def difference(one: Path, other: Path) -> float:
    """The largest difference between the weights and losses of two runs; 0 if bitwise equal."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    if first.keys() != second.keys():
        raise UserError(f"the models in {other} and {one} do not have the same parameters")
    errors = [
        float((x - second[name]).abs().max() / x.abs().max().clamp_min(1e-30))
        for name, x in first.items()
        if not torch.equal(x, second[name])
    ]
    losses = [
        [json.loads(line)["loss"] for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (one, other)
    ]
    apart = [abs(a - b) / abs(a) for a, b in zip(*losses, strict=True) if a != b]
    return max([*errors, *apart], default=0.0)
