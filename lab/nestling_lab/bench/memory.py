"""How much memory the tensors of a piece of work take at once."""

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that tensors made during ``work`` hold at one moment.

    On a CPU the allocator's own record of the work, so the same on every machine and under every
    load; on an accelerator, the allocator's peak less what was there before. ``work`` should free
    nothing that was there before it: a CPU's record knows the sizes of some such blocks only.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # what others left behind and Python frees in the midst of the work would count as freed by it
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
