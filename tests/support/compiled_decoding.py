"""Decoding with the compiled step equals the model, in one graph for every length.

To be run in a process of its own: the tests check every annotated call, and torch.compile cannot
trace the checks.
"""

import torch
import torch._dynamo

from nestling.models import create
from nestling.models.decode import compiled_step

LENGTH, FIRST = 20, 5  # total tokens, and those read before the step is compiled


@torch.no_grad()
def main(backend: str) -> None:
    """Read, then decode token by token in both ways; recompiling for a length is an error."""
    model = create(
        "hope-tiny", vocab_size=64, num_hidden_layers=1, hidden_size=32, num_heads=2,
        period=4, projection_period=4, head_period=4, head_slots=6,
    )  # fmt: skip
    ids = torch.randint(64, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    step = compiled_step(model, backend=backend)
    cache = model(ids[:, :FIRST], use_cache=True).past_key_values
    plain = cache.fork()
    for index, token in enumerate(ids[:, FIRST:].split(1, dim=1)):
        # the first token creates parts that are None, so the second one compiles too
        torch._dynamo.config.error_on_recompile = index >= 2
        logits = step(token, cache)
        expected = model(token, past_key_values=plain, use_cache=True).logits[:, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert cache.columns == plain.columns == LENGTH
