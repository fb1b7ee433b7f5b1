"""Learning-rate schedules."""

import math
from typing import Literal


def rate(
    step: int,
    *,
    steps: int,
    warmup: float | int,
    shape: Literal["cosine", "wsd", "constant"] = "cosine",
    decay: float | int = 0.2,
    final: float | int = 0.1,
) -> float:
    """The fraction of the peak learning rate at step 0, 1, ... of ``steps``.

    It rises linearly over the first ``warmup`` (fraction of the steps). Then it falls to ``final``
    as a half cosine ("cosine"), stays and falls linearly over the last ``decay`` (fraction) of the
    steps ("wsd"), or stays ("constant").

    >>> [round(rate(s, steps=10, warmup=0.2), 2) for s in (0, 1, 2, 5, 9)]
    [0.5, 1.0, 1.0, 0.65, 0.1]
    >>> [round(rate(s, steps=10, warmup=0.2, shape="wsd", decay=0.3), 2) for s in (0, 2, 6, 7, 9)]
    [0.5, 1.0, 1.0, 0.7, 0.1]
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if shape == "constant":
        return 1.0
    if shape == "wsd":
        falling = max(1, round(decay * steps))
        done = max(0.0, (step + 1 - (steps - falling)) / falling)
        return 1.0 - (1.0 - final) * min(1.0, done)
    done = min(1.0, (step - rising) / max(1, steps - 1 - rising))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
