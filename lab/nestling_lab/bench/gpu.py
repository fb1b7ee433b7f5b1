"""Measurements that need an accelerator; docs/gpu.md has those made so far.

Each part runs in its own process with its own time limit, so that one that fails, hangs or fills
the memory does not affect the others. ``dry`` runs the same at sizes that take a CPU seconds; its
figures mean nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.models import HopeForCausalLM, create
from nestling.models.decode import read
from nestling.models.graphs import Replay
from nestling_lab.bench.gate import hold, relative
from nestling_lab.bench.kernel_speed import kernel_speed
from nestling_lab.bench.training_cost import Shape, training
from nestling_lab.bench.turns import Contestant, say, spread, take_turns

GATE = ["-m", "pytest", "-q", "-x", "-m", "gpu and not slow", "tests"]
GATE_SECONDS = 150


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement, and its time limit in seconds."""

    work: Callable[[str, bool], dict[str, Any]]  # device, dry
    seconds: int


def gate() -> None:
    """Run the tests marked gpu. Raises UserError unless some ran and all passed."""
    if not Path("tests").is_dir():
        raise UserError(
            "there is no folder tests here; run this in a checkout, which has the parity tests"
        )
    # one configuration per kernel: the tests check correctness, and tuning takes minutes
    environment = os.environ | {"NESTLING_TUNE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, *GATE], env=environment, timeout=GATE_SECONDS, capture_output=True,
            text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the tests marked gpu took more than {GATE_SECONDS} s") from error
    if done.returncode:
        tail = " | ".join(done.stdout.strip().splitlines()[-3:])
        raise UserError(f"the tests marked gpu failed, so no speed is measured: {tail}")


def training_speed(length: int, device: str, dry: bool) -> dict[str, Any]:
    """The training speed of hope-340m relative to transformer-340m, at one row of ``length``."""
    size, shape = ("tiny", Shape(1, 32)) if dry else ("340m", Shape(1, length))
    names = [f"transformer-{size}", f"hope-{size}"]
    found = training(
        names, [shape], rounds=2, vocab_size=64 if dry else 32000, device=device, peak=not dry,
        precision="float32" if dry else "bfloat16", quiet=True,
    )  # fmt: skip
    return {"ratio": found["presets"][names[1]]["over_reference"], **found}


def decoding_speed(
    device: str, dry: bool, *, prompt: int = 512, tokens: int = 64
) -> dict[str, Any]:
    """The decoding speed of hope with a CUDA graph, relative to the same step without."""
    if dry:
        prompt, tokens = 20, 4
    size, options = ("tiny", {"num_hidden_layers": 1}) if dry else ("340m", {})
    model = create(f"hope-{size}", vocab_size=64 if dry else 32000, **options).to(device)
    ids = torch.zeros(1, prompt, dtype=torch.long, device=device)
    _, cache = read(model, ids)
    contestants, errors = _decoders(model, cache, ids[:, :1], tokens)
    found = hold("decoding", errors)
    take_turns(contestants, rounds=2 if dry else 5, device=device, quiet=True)
    speeds = {c.name: spread([tokens / s for s in c.seconds])._asdict() for c in contestants}
    graph, plain = (speeds[name]["median"] for name in ("graph", "plain"))
    return {"ratio": graph / plain, "gate": found, "tokens_per_second": speeds, "prompt": prompt}


def _decoders(
    model: HopeForCausalLM, cache: Any, ids: torch.Tensor, tokens: int
) -> tuple[list[Contestant], dict[str, float]]:
    """Both ways to decode, and their difference."""
    replay, own = Replay(model, cache), cache.fork()

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return model(ids, past_key_values=own, use_cache=True).logits[:, -1]

    errors = {f"token {n} of the graph and without": relative(replay(ids), plain()) for n in (1, 2)}

    def many(step: Callable[[], object]) -> None:
        for _ in range(tokens):
            step()

    graph = Contestant(name="graph", work=partial(many, partial(replay, ids)))
    return [graph, Contestant(name="plain", work=partial(many, plain))], errors


PARTS: dict[str, Part] = {
    "kernel_momentum": Part(work=partial(kernel_speed, True), seconds=60),
    "kernel": Part(work=partial(kernel_speed, False), seconds=60),
    "hope_340m_4096": Part(work=partial(training_speed, 4096), seconds=70),
    "hope_340m_32768": Part(work=partial(training_speed, 32768), seconds=80),
    "decode": Part(work=decoding_speed, seconds=40),
}
"""The parts of ``bench gpu``. Including the gate they always end within 8 minutes."""


def run_part(name: str, device: str, dry: bool) -> dict[str, Any]:
    """Measure one part in this process. Raises UserError for an unknown name."""
    if name not in PARTS:
        raise UserError(f"unknown part {name!r}; choose one of {', '.join(PARTS)}")
    return PARTS[name].work(device, dry)


def run_apart(name: str, device: str, dry: bool) -> dict[str, Any]:
    """Measure one part in another process; if that fails, ``ratio`` is None, with a ``reason``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.json"
        command = [sys.executable, "-m", "nestling.cli.main", "bench", "gpu", "--part", name]
        command += ["--device", device, "--json", str(file), *(["--dry"] if dry else [])]
        limit = PARTS[name].seconds
        try:
            done = subprocess.run(command, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"ratio": None, "reason": f"took more than {limit} s"}
        if done.returncode or not file.exists():
            last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            return {"ratio": None, "reason": last}
        return Result.read(file).metrics[name]


def measure(device: str, dry: bool, *, quiet: bool = False) -> dict[str, Any]:
    """Run the gate and then every part. Raises UserError if the gate fails."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device; try the script itself with --dry --device cpu")
    if torch.device(device).type != "cuda" and not dry:
        raise UserError("these sizes need a CUDA device; use --dry on a CPU")
    if not dry:
        gate()
        say("gate: green", quiet)
    found = {}
    for name in PARTS:
        found[name] = run_apart(name, device, dry)
        say(f"{name}: {json.dumps(found[name].get('ratio'))}", quiet)
    return found
