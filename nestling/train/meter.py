"""Measures speed, utilisation and memory of a run."""

import sys
import time
from typing import Any

import torch

from nestling.train.run import Run
from nestling.train.sketch import cost

PATIENCE = 10.0  # seconds of training before measurements that cost time themselves
SIDE = {"cpu": 1024}  # of the square matrices in the timed product
REPEATS = 3


class Meter:
    """Figures of the last step of a run, for its log.

    ``tokens_per_second`` counts labelled tokens of all processes, ``waiting`` is the share of the
    step spent waiting for batches, and ``peak_memory`` the peak memory of this process so far
    (bytes). ``utilisation`` is the share of the devices' peak performance: (model operations per
    token) x (tokens per second) / (processes x ``peak``), the "MFU" of arXiv 2204.02311, Appendix
    B. Operations are counted as by ``nestling plan`` for a row of the run's length; recomputed ones
    count once. ``peak`` is the setting ``peak_flops``, or measured by ``matmul_peak``, but only
    after ten seconds of training, because that takes time.
    """

    def __init__(self, run: Run):
        self.run = run
        self._before = self._now()
        self._share: float | None = None  # of the peak, per token per second

    def _now(self) -> tuple[int, float, float]:
        totals = self.run.totals
        return totals.tokens, totals.seconds, totals.waited

    def figures(self) -> dict[str, float | int]:
        """The figures of the steps since the last call."""
        then, self._before = self._before, self._now()
        tokens, seconds, waited = (
            now - before for now, before in zip(self._before, then, strict=True)
        )
        seconds = max(seconds, 1e-9)
        found: dict[str, float | int] = {
            "tokens_per_second": tokens / seconds,
            "waiting": waited / seconds,
            "peak_memory": peak_memory(self.run.model.device),
        }
        share = self._of_peak()
        return found if share is None else found | {"utilisation": share * tokens / seconds}

    def _of_peak(self) -> float | None:
        run = self.run
        given = run.config.peak_flops
        if not run.ranks.first or given is None and run.totals.seconds < PATIENCE:
            return self._share
        if self._share is None:
            length = run.config.sequence_length
            config: Any = run.model.config
            operations = cost(config, length).flops / length
            peak = given or matmul_peak(run.model.device, run.config.precision)
            self._share = operations / (run.ranks.world * peak)
        return self._share


def matmul_peak(device: torch.device, precision: str) -> float:
    """The operations per second of a device in the product of two square matrices.

    Measured in the precision of a run and with this process's threads: the fastest of three, after
    a warm-up.
    """
    side = SIDE.get(device.type, 8192)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = torch.ones(side, side, dtype=dtype, device=device)

    def seconds() -> float:
        begin = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for the result
        return time.perf_counter() - begin

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(REPEATS))


def peak_memory(device: torch.device) -> int:
    """Peak memory so far (bytes): of tensors on CUDA, else of the process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
