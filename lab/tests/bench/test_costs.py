"""Memory and op benchmarks: what is counted; incorrect results are not timed."""

import importlib.util
from functools import partial
from typing import Any

import pytest
import torch
from apart import run_apart

from nestling.core.error import UserError
from nestling.ops.momentum_gated_delta_rule.tiling import chunk_for
from nestling_lab.bench import Shape, op_speed, peers
from nestling_lab.bench.document_cost import Document, documents
from nestling_lab.bench.memory_cost import memory
from nestling_lab.bench.op_speed import ops
from nestling_lab.bench.tilings import KINDS, Tokens, tilings
from nestling_lab.bench.training_cost import training

SMALL = {"batch": 1, "length": 20, "heads": 2, "width": 8, "chunks": [4], "rounds": 1}


def test_memory_grows_linearly_with_tokens(narrow):
    found = memory(["transformer-tiny", "hope-tiny"], Shape(2, 128), vocab_size=64, quiet=True)
    first, ours = found["presets"].values()
    assert first["over_reference"] == first["tokens_over_reference"] == 1
    assert ours["over_reference"] == ours["peak_mib"] / first["peak_mib"]
    # the backward pass needs at least the stream of both blocks and the factors of the gate
    assert first["bytes_per_token"] > 4 * (2 * 64 + 2 * 768)


def test_segmented_reading_uses_constant_memory():
    """Runs in its own process, because the record counts allocations of other tests' threads."""
    small: dict[str, Any] = {"vocab_size": 64, "quiet": True, "num_hidden_layers": 1,
                             "hidden_size": 64, "num_heads": 2}  # fmt: skip
    hope = small | {"cms.periods": [32, 64]}

    def peaks(preset: str, lengths: list[int], segment: int, **options: Any) -> dict[str, Any]:
        call = partial(documents, [preset], lengths, segment=segment, **options)
        return run_apart(call)

    found = peaks("hope-tiny", [2048, 64], 32, **hope)
    found |= peaks("transformer-tiny", [2048, 64], 32, **small)
    assert list(found["hope-tiny"]) == ["64", "2048"]
    assert found["hope-tiny"]["64"]["over_shortest"] == 1
    # a single freed block from before would be a tenth of this small total
    assert found["hope-tiny"]["2048"]["over_shortest"] < 1.2
    # attention's state grows with the document, and so does reading it at once
    assert found["transformer-tiny"]["2048"]["over_shortest"] > 2.5
    whole = peaks("hope-tiny", [512], 512, **hope)["hope-tiny"]["512"]
    assert whole["peak_mib"] > 4 * found["hope-tiny"]["2048"]["peak_mib"]


def test_document_is_read_completely():
    document = Document(10, 7, 3)
    pieces = [next(document) for _ in range(4)]
    assert [piece.input_ids.shape[1] for piece in pieces] == [3, 3, 1, 3]
    assert torch.equal(torch.cat([piece.input_ids for piece in pieces[:3]], 1), document.ids[:, :7])
    assert torch.equal(torch.cat([piece.labels for piece in pieces[:3]], 1), document.ids[:, 1:])
    assert [piece.reset.nonzero().tolist() for piece in pieces] == [[[0, 0]], [], [], [[0, 0]]]


def test_kernel_forms_are_timed_after_a_parity_check(monkeypatch):
    found = ops(**SMALL, others=True, quiet=True)["kernel"]
    assert set(found["momentum"]) == {"step", "chunk 4"}
    assert set(found["no momentum"]) == {"step", "chunk 4", "peer:transformers"}
    for rows in found.values():
        for row in rows.values():
            assert row["tokens_per_second"] > 0 and max(row["gate"].values()) < 1e-5
    right = op_speed.transformers_form
    monkeypatch.setattr(op_speed, "transformers_form", lambda tokens: 1.1 * right(tokens))
    with pytest.raises(UserError, match="peer:transformers: outputs"):
        ops(**SMALL, others=True, quiet=True)


def test_chosen_chunk_size_is_compared_with_the_fastest():
    found = tilings([Tokens(1, 40, 2, 8)], rounds=1, quiet=True)
    assert set(found) == set(KINDS)
    for kind, (erases, momentum) in KINDS.items():
        row = found[kind]["1x40x2x8"]
        assert set(row["milliseconds"]) == {"16", "32", "40"}, "no chunk is longer than the row"
        size = chunk_for(rows=2, key=8, value=8, erases=erases, momentum=momentum)
        assert row["chosen"] == min(size, 40)
        times = row["milliseconds"]
        assert row["over_best"] == times[str(row["chosen"])] / min(times.values())
    with pytest.raises(UserError, match="ROWSxLENGTHxHEADSxWIDTH"):
        Tokens.parse("4x512")


def test_peer_models_match_parameter_counts():
    from nestling.models import create

    for name in ("llama", "mamba2", "qwen3-next"):
        peer = peers.PEERS[name]
        theirs = sum(p.numel() for p in peer.build(64).parameters())
        ours = create(f"{peer.beside}-tiny", vocab_size=64).num_parameters()
        assert theirs == pytest.approx(ours, rel=0.01), name


def test_peer_is_timed_and_compared(narrow):
    found = training(
        ["transformer-tiny"], [Shape(1, 16)], others=["llama"], rounds=1, vocab_size=64, quiet=True
    )["shapes"]["1x16"]
    assert set(found["presets"]) == {"transformer-tiny", "peer:llama"}
    assert found["over_peer"]["llama"] > 0
    assert found["presets"]["peer:llama"]["peak_mib"] > 0


def test_missing_peer_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"titans-pytorch is not installed: pip install"):
        peers.find("titans-mac")
    with pytest.raises(UserError, match="did you mean 'llama'"):
        peers.find("lama")


def test_peer_with_nonfinite_output_is_not_timed(monkeypatch, narrow):
    class Nothing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

    nothing = peers.Peer(
        package="torch", beside="hope", build=lambda v: Nothing(),
        logits=lambda m, ids: torch.full((*ids.shape, 64), float("nan")) * m.weight,
    )  # fmt: skip
    monkeypatch.setitem(peers.PEERS, "nothing", nothing)
    with pytest.raises(UserError, match="peer:nothing: first loss"):
        training(["hope-tiny"], [Shape(1, 8)], others=["nothing"], rounds=1, vocab_size=64,
                 quiet=True)  # fmt: skip
