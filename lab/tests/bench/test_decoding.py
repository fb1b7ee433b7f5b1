"""Decoding benchmark: what is measured; incorrect decoding is not timed."""

import pytest
from apart import run_apart
from compiled_decoding import main

from nestling.core.error import UserError
from nestling_lab.bench import decoding as module
from nestling_lab.bench.decoding import batched, decoding

SMALL = {"tokens": 2, "rounds": 2, "vocab_size": 64, "quiet": True}


def test_each_context_is_compared_with_the_first_and_the_peer(narrow):
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


def test_requests_of_different_lengths_match_single_requests(monkeypatch, narrow):
    shape = {"rows": 3, "shortest": 5, "longest": 20}
    found = batched("hope-tiny", **shape, **SMALL)
    assert found["lengths"] == [5, 12, 20] and found["tokens_per_second"] > 0
    assert found["gate"]["rows of a batch and alone"] < 1e-5
    monkeypatch.setattr(module, "relative", lambda found, expected: 0.1)
    with pytest.raises(UserError, match="rows of a batch and alone differ"):
        batched("hope-tiny", **shape, **SMALL)


def test_incorrect_decoding_is_not_timed(monkeypatch, narrow):
    monkeypatch.setattr(module, "decoding_error", lambda model: 0.1)
    with pytest.raises(UserError, match="token by token"):
        decoding(["hope-tiny"], [8], **SMALL)


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_step_compiles_once_without_graph_breaks(backend):
    run_apart(main, backend)
