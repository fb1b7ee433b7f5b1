"""torch.compile can trace every memory state."""

import pytest
import torch

from nestling.core.named import _replaced
from nestling.models import create
from nestling.models.presets import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_every_state_uses_the_traceable_replace(family):
    model = create(f"{family}-tiny", num_hidden_layers=1, vocab_size=32)
    with torch.no_grad():
        cache = model(torch.zeros(1, 2, dtype=torch.long), use_cache=True).past_key_values
    seen, left = set(), [cache.states]
    while left:
        one = left.pop()
        if hasattr(one, "_fields"):
            seen.add(type(one))
        if isinstance(one, (tuple, list)):
            left.extend(one)
    assert seen
    assert not [cls.__name__ for cls in seen if cls._replace is not _replaced]
