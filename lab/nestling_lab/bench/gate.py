"""What must be right before a speed is told: the parity gates of the benchmarks."""

from collections.abc import Mapping

import torch

from nestling.core.error import UserError
from nestling.models import HopeForCausalLM

BOUND = 1e-4  # relative error above which nothing is measured; float32


def hold(name: str, errors: Mapping[str, float], bound: float = BOUND) -> dict[str, float]:
    """The errors, if each is below ``bound``; else UserError, and so no figure.

    >>> hold("hope-tiny", {"reading in two pieces and at once": 1e-7})
    {'reading in two pieces and at once': 1e-07}
    """
    for what, error in errors.items():
        if not error < bound:
            raise UserError(
                f"{name}: {what} differ by {error:.1e}, more than {bound:.0e}; "
                "speed is not measured of what is wrong: mend it first"
            )
    return dict(errors)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error (Euclidean norm) of what was found."""
    return float((found - expected).norm() / expected.norm())


def sample_ids(model: HopeForCausalLM, rows: int, length: int) -> torch.Tensor:
    """Token ids [rows, length] drawn from a seed of their own, on the model's device."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    return ids.to(model.device)


@torch.no_grad()
def streaming_error(model: HopeForCausalLM, length: int = 40) -> float:
    """Relative error of logits read in two pieces against those read at once."""
    ids = sample_ids(model, 2, length)
    whole = model(ids).logits
    first = model(ids[:, : length // 3], use_cache=True)
    rest = model(ids[:, length // 3 :], past_key_values=first.past_key_values, use_cache=True)
    return relative(torch.cat((first.logits, rest.logits), dim=1), whole)


@torch.no_grad()
def decoding_error(model: HopeForCausalLM, prompt: int = 30, steps: int = 8) -> float:
    """Relative error of logits of single tokens after a prompt against those read at once."""
    ids = sample_ids(model, 2, prompt + steps)
    whole = model(ids).logits
    out = model(ids[:, :prompt], use_cache=True)
    logits, cache = [out.logits], out.past_key_values
    for token in ids[:, prompt:].split(1, dim=1):
        logits.append(model(token, past_key_values=cache, use_cache=True).logits)
    return relative(torch.cat(logits, dim=1), whole)
