"""The memory of a training step, preset by preset."""

from collections.abc import Sequence
from typing import Any

from nestling.core.error import UserError
from nestling.models import create
from nestling.train import Run, TrainConfig
from nestling_lab.bench.gate import hold, streaming_error
from nestling_lab.bench.memory import peak_of
from nestling_lab.bench.training_cost import RandomText, Shape, state_bytes
from nestling_lab.bench.turns import say


def step_peak(name: str, shape: Shape, *, vocab_size: int, device: str) -> int:
    """The peak bytes of tensors in one training step, without weights and optimizer state."""
    model = create(name, vocab_size=vocab_size).to(device)
    hold(name, {"reading in two pieces and at once": streaming_error(model)})
    config = TrainConfig(batch_size=shape.rows, sequence_length=shape.length, carry=False)
    run = Run(model, RandomText(vocab_size, *shape), config)
    run.step()
    run.optimizer.zero_grad()  # so that the step frees nothing from before it
    return peak_of(run.step, device)


def memory(
    presets: Sequence[str],
    shape: Shape = Shape(4, 512),
    *,
    vocab_size: int = 4096,
    device: str = "cpu",
    quiet: bool = False,
) -> dict[str, Any]:
    """The peak memory of a training step at a shape, and the increase per additional token.

    For each preset: ``peak_mib`` (without weights and optimizer state, but with gradients),
    ``over_reference`` (relative to the first preset), ``bytes_per_token`` (the difference to half
    the length, per token), ``tokens_over_reference`` (the same relative to the first preset) and
    ``state_bytes`` (of one row after ``length`` tokens). Deterministic on a CPU.
    """
    if shape.length < 2 or not presets:
        raise UserError(
            "presets are empty or rows shorter than 2 tokens; give at least one preset and 2 tokens"
        )
    half = Shape(shape.rows, shape.length // 2)
    more = shape.rows * (shape.length - half.length)
    found: dict[str, Any] = {}
    for name in presets:
        peak, less = (
            step_peak(name, at, vocab_size=vocab_size, device=device) for at in (shape, half)
        )
        model = create(name, vocab_size=vocab_size).to(device)
        found[name] = {
            "peak_mib": peak / 2**20,
            "bytes_per_token": (peak - less) / more,
            "state_bytes": state_bytes(model, shape.length),
            "num_parameters": model.num_parameters(),
        }
        say(f"{name}: {peak / 2**20:,.0f} MiB", quiet)
    first = found[presets[0]]
    for row in found.values():
        row["over_reference"] = row["peak_mib"] / first["peak_mib"]
        # None if the shape is so small that gradients, not tokens, determine the peak
        some = first["bytes_per_token"]
        row["tokens_over_reference"] = row["bytes_per_token"] / some if some > 0 else None
    return {"reference": presets[0], "shape": str(shape), "presets": found}
