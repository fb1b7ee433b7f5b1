"""Training cost benchmark: what is counted; incorrect models are not timed."""

import gc

import pytest
import torch

from nestling.core.error import UserError
from nestling.models import create
from nestling.models.presets import FAMILIES
from nestling_lab.bench import Shape, peak_of, resolve, training
from nestling_lab.bench.gate import streaming_error
from nestling_lab.bench.training_cost import Head, state_bytes

SMALL = {"shapes": [Shape(2, 32)], "rounds": 2, "vocab_size": 64, "quiet": True}


def test_every_preset_is_measured_against_the_first(narrow):
    found = training(["transformer-tiny", "hope-tiny"], **SMALL)
    assert found["reference"] == "transformer-tiny"
    assert found["presets"]["transformer-tiny"]["over_reference"] == 1
    for row in found["presets"].values():
        assert 0 < row["slowest"] <= row["tokens_per_second"] <= row["fastest"]
        assert row["num_non_embedding"] < row["num_parameters"]
        # a step includes the gradients of the blocks
        assert row["peak_mib"] * 2**20 > 4 * row["num_non_embedding"]


def test_heads_are_measured_beside_each_preset(narrow):
    found = training(["transformer-tiny"], heads=[Head(4), Head.parse("4:8")], **SMALL)
    plain, whole, few = found["presets"].values()
    assert list(found["presets"])[1:] == ["transformer-tiny, head 4", "transformer-tiny, head 4:8"]
    assert plain["state_bytes"] < few["state_bytes"] < whole["state_bytes"]
    for text in ("4:", "4:8:2", "x", "0"):
        with pytest.raises(UserError, match="is not a head"):
            Head.parse(text)


def test_peak_counts_simultaneous_allocations():
    def work() -> None:
        first = torch.ones(2**20)
        del first
        second, third = torch.ones(2**20), torch.ones(2**19)
        assert len(second) + len(third)

    assert peak_of(work) == pytest.approx(4 * (2**20 + 2**19), rel=0.01)


def test_garbage_is_collected_before_measuring():
    def leave_behind() -> None:
        circle = [torch.ones(2**21)]
        circle.append(circle)
        gc.collect()  # it is in an old generation before it becomes garbage

    def work() -> None:
        gc.collect()
        kept = torch.ones(2**20)
        assert len(kept)

    leave_behind()
    assert peak_of(work) == pytest.approx(4 * 2**20, rel=0.01)
    assert gc.isenabled()


def test_state_size_counts_every_tensor():
    model = create("transformer-tiny", vocab_size=64, num_hidden_layers=1)
    grown = state_bytes(model, 20) - state_bytes(model, 10)
    # keys and values of half the heads, and two 8-byte position counters
    assert grown == 10 * (2 * 128 * 4 + 16)


def test_incorrect_streaming_is_not_timed(monkeypatch, narrow):
    model = create("hope-tiny", vocab_size=64, num_hidden_layers=1)
    assert streaming_error(model) < 1e-5
    monkeypatch.setattr("nestling_lab.bench.training_cost.streaming_error", lambda model: 0.1)
    with pytest.raises(UserError, match="reading in two pieces and at once differ"):
        training(["hope-tiny"], **SMALL)


def test_names_stand_for_families_and_presets():
    assert resolve("all", "small") == sorted(
        (f"{family}-small" for family in FAMILIES), key=lambda n: not n.startswith("transformer-")
    )
    assert resolve("hope-attention", "tiny") == ["transformer-tiny", "hope-attention-tiny"]
    with pytest.raises(UserError, match="did you mean 'hope-tiny'"):
        resolve("hop", "tiny")
    with pytest.raises(UserError, match="choose one of"):
        resolve("all", "huge")
