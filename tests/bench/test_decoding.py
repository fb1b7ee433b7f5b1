"""Timing of decoding: what is measured, where, and that nothing wrong is timed."""

import pytest

from nestling.bench import decoding as module
from nestling.bench.decoding import batched, decoding
from nestling.core.error import UserError
from nestling.models import create
from nestling.models.decode import compiled_step

SMALL = {"tokens": 2, "rounds": 2, "vocab_size": 64, "quiet": True}


def test_each_context_is_timed_and_set_against_the_first_and_the_peer():
    found = decoding(
        ["transformer-tiny", "hope-tiny"], [8, 24], reference_context=16, others=["llama"], **SMALL
    )
    rows = found["presets"]
    assert {name: set(row["contexts"]) for name, row in rows.items()} == {
        "transformer-tiny": {"16"},
        "hope-tiny": {"8", "16", "24"},
        "peer:llama": {"16"},
    }
    for row in rows["hope-tiny"]["contexts"].values():
        assert 0 < row["fastest"] <= row["ms_per_token"] <= row["slowest"]
    assert set(rows["hope-tiny"]["over"]) == {"transformer-tiny", "peer:llama"}
    assert rows["transformer-tiny"]["over"]["transformer-tiny"] == 1
    assert set(rows["hope-tiny"]["flat"]) == {"24 over 8"}


def test_requests_of_different_lengths_are_held_to_themselves_alone(monkeypatch):
    shape = {"rows": 3, "shortest": 5, "longest": 20}
    found = batched("hope-tiny", **shape, **SMALL)
    assert found["lengths"] == [5, 12, 20] and found["tokens_per_second"] > 0
    assert found["gate"]["rows of a batch and alone"] < 1e-5
    monkeypatch.setattr(module, "relative", lambda found, expected: 0.1)
    with pytest.raises(UserError, match="rows of a batch and alone differ"):
        batched("hope-tiny", **shape, **SMALL)


def test_a_model_that_decodes_wrongly_is_not_timed(monkeypatch):
    monkeypatch.setattr(module, "decoding_error", lambda model: 0.1)
    with pytest.raises(UserError, match="token by token"):
        decoding(["hope-tiny"], [8], **SMALL)


@pytest.mark.slow
@pytest.mark.compile
def test_the_step_compiles_whole_and_once_for_all_lengths():
    import torch._dynamo

    model = create("hope-tiny", vocab_size=64, num_hidden_layers=1, hidden_size=32, period=4,
                   projection_period=4)  # fmt: skip
    ids = torch.randint(64, (2, 30), generator=torch.Generator().manual_seed(0))
    step = compiled_step(model)
    with torch.no_grad():
        cache = model(ids[:, :5], use_cache=True).past_key_values
        plain = cache.fork()
        for index, token in enumerate(ids[:, 5:].split(1, dim=1)):
            logits = step(token, cache)
            torch._dynamo.config.error_on_recompile = index >= 1
            expected = model(token, past_key_values=plain, use_cache=True).logits[:, -1]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.config.error_on_recompile = False
    assert cache.columns == 30
