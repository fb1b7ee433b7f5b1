"""Measures the peak memory of the tensors of a piece of work."""

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object], device: str = "cpu") -> int:
    """The peak bytes of tensors allocated during ``work``.

    On a CPU this comes from the profiler's record of allocations, so it is the same on every
    machine and under any load; on an accelerator it is the allocator's peak minus what was there
    before. ``work`` should not free earlier tensors: the record on a CPU does not know the sizes of
    all of them.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # garbage from before that Python frees during the work would count as freed by it
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            work()
    finally:
        if collecting:
            gc.enable()
    results = record.profiler.kineto_results if record.profiler else None
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
