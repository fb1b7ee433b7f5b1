"""Devices by name."""

import torch

from nestling.core.error import UserError


def find_device(name: str) -> torch.device:
    """The torch device of this name. Raises UserError if it is unknown or not available.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} is not available; choose one of: {here}") from error
    return device
