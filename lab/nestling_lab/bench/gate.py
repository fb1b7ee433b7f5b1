"""Parity gates: checks that must pass before a benchmark reports a speed."""

from collections.abc import Mapping

import torch

from nestling.core.error import UserError
from nestling.models import HopeForCausalLM

BOUND = 1e-4  # maximum relative error in float32


def hold(name: str, errors: Mapping[str, float], bound: float = BOUND) -> dict[str, float]:
    """Return the errors. Raises UserError, so that nothing is measured, if one exceeds ``bound``.

    >>> hold("hope-tiny", {"reading in two pieces and at once": 1e-7})
    {'reading in two pieces and at once': 1e-07}
    """
    for what, error in errors.items():
        if not error < bound:
            raise UserError(
                f"{name}: {what} differ by {error:.1e}, more than {bound:.0e}; "
                "fix this first, as the speed of wrong results is not measured"
            )
    return dict(errors)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error of ``found``, in Euclidean norm."""
    return float((found - expected).norm() / expected.norm())


def sample_ids(model: HopeForCausalLM, rows: int, length: int) -> torch.Tensor:
    """Token ids [rows, length] from a fixed seed, on the model's device."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    return ids.to(model.device)


@torch.no_grad()
def streaming_error(model: HopeForCausalLM, length: int = 40) -> float:
    """The relative error of logits read in two pieces, against those read at once."""
    ids = sample_ids(model, 2, length)
    whole = model(ids).logits
    first = model(ids[:, : length // 3], use_cache=True)
    rest = model(ids[:, length // 3 :], past_key_values=first.past_key_values, use_cache=True)
    return relative(torch.cat((first.logits, rest.logits), dim=1), whole)


@torch.no_grad()
def decoding_error(model: HopeForCausalLM, prompt: int = 30, steps: int = 8) -> float:
    """The relative error of logits of single tokens after a prompt, against those read at once."""
    ids = sample_ids(model, 2, prompt + steps)
    whole = model(ids).logits
    out = model(ids[:, :prompt], use_cache=True)
    logits, cache = [out.logits], out.past_key_values
    for token in ids[:, prompt:].split(1, dim=1):
        logits.append(model(token, past_key_values=cache, use_cache=True).logits)
    return relative(torch.cat(logits, dim=1), whole)
