"""A training that is killed at random moments, and started again until it has ended."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nestling.core.error import UserError
from nestling_lab.bench.turns import say

TEXT = "\n\n".join(f"{i} and {i + 1} are {2 * i + 1}. " * (1 + i % 9) for i in range(400))
SMALL = ("num_hidden_layers=1", "hidden_size=64", "batch_size=4", "sequence_length=64")
SMALL += ("evaluate_tokens=500", "save_every=5")
LONGEST = 600.0  # seconds that a process may take


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
    """Kill a training ``times`` times (SIGKILL), and compare with one that is left alone.

    The moments are drawn evenly from the time that the whole run takes, its start included; a run
    that has ended before is begun anew. Of several ``ranks`` one is killed, which ends the others.
    Gives the step after which each was killed, how many runs came to their end, how many of those
    have the weights of the one left alone to the bit, and the largest difference relative to the
    largest weight of a tensor. Raises UserError for a run that does not go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    train = ["train", "--preset", preset, "--optimizer", optimizer, "--corpus", str(text)]
    train += ["--tokenizer", "bytes", "--steps", str(steps), "--shard", shard, "--quiet"]
    train += ["--resume", *(part for pair in SMALL for part in ("--set", pair))]
    draw, killed, ended, found = random.Random(seed), [], [], {"seconds_until_all_ended": 0.0}
    begin = time.monotonic()
    whole = folder / "whole"
    _finish(_start([*train, "--out", str(whole)], ranks, folder))
    seconds = time.monotonic() - begin
    while len(killed) < times or not ended:
        out = folder / f"run-{len(ended)}"
        process = _start([*train, "--out", str(out)], ranks, folder)
        try:
            process.wait(draw.uniform(0, seconds) if len(killed) < times else LONGEST)
        except subprocess.TimeoutExpired:
            if len(killed) == times:
                raise UserError(f"{out} has not ended after {LONGEST:.0f} s") from None
            took = _kill(process, ranks, draw)
            found["seconds_until_all_ended"] = max(found["seconds_until_all_ended"], took)
            killed.append(_steps(out))
            say(f"killed after step {killed[-1]}", quiet)
            continue
        _finish(process)
        ended.append(difference(whole, out))
        say(f"ended; largest difference {ended[-1]}", quiet)
    return found | {
        "killed_after_step": killed,
        "runs": len(ended),
        "equal_to_the_bit": sum(one == 0 for one in ended),
        "largest_difference": max(ended),
        "seconds_of_a_run": seconds,
    }


def _start(train: Sequence[str], ranks: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    with open(folder / "errors.txt", "wb") as errors:
        return subprocess.Popen(
            [*command, "nestling", *train],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _finish(process: subprocess.Popen[bytes]) -> None:
    if code := process.wait(LONGEST):
        raise UserError(f"a run has ended with {code}; errors.txt in the folder says why")


def _kill(process: subprocess.Popen[bytes], ranks: int, draw: random.Random) -> float:
    """Kill the process, or one of its ranks; seconds until all have ended."""
    begin = time.monotonic()
    chosen = process.pid
    if ranks > 1 and (children := _children(process.pid)):
        chosen = draw.choice(children)
    os.kill(chosen, signal.SIGKILL)
    process.wait(LONGEST)
    return time.monotonic() - begin


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _steps(out: Path) -> int:
    """The newest step of which there is a checkpoint; 0 for none."""
    names = sorted(path.name for path in out.glob("checkpoints/step-*"))
    return int(names[-1].removeprefix("step-")) if names else 0


def difference(one: Path, other: Path) -> float:
    """The largest difference of two models' weights and losses; 0: they are the same bits."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    if first.keys() != second.keys():
        raise UserError(f"{other} has other weights than {one}")
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
