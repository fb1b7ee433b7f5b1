"""Products in bfloat16 where the processor has instructions for them."""

import contextlib

import torch

LAYERS, HEAD = (
    64,
    32,
)  # in bfloat16, inputs of the layers and the head have a multiple of these rows
FLAGS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # of torch.cpu


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = (getattr(torch.cpu, name, None) for name in FLAGS)
    return device.type == "cpu" and any(flag is not None and flag() for flag in found)


def missing(count: int, size: int, device: torch.device, wanted: bool = True) -> int:
    """How many rows ``count`` lacks to a multiple of ``size``, for products in bfloat16.

    oneDNN compiles a kernel for every number of rows and keeps it: a process that studies texts of
    all lengths would grow without end.
    """
    return -count % size if wanted and has_bfloat16(device) else 0


def mixed(device: torch.device, wanted: bool = True) -> contextlib.AbstractContextManager[object]:
    """Within this context, products of matrices are in bfloat16 if ``wanted`` and fast there.

    Sums, norms and everything that is kept stay in float32. Applies to the current thread.
    """
    if not wanted or not has_bfloat16(device):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
