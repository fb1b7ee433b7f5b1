"""The gates: what they detect; non-finite values never pass."""

import pytest
import torch

from nestling.core.error import UserError
from nestling.models import create
from nestling_lab.bench.gate import decoding_error, hold, streaming_error


@pytest.mark.parametrize("error", [1e-3, float("inf"), float("nan")])
def test_failed_gate_is_one_line(error):
    with pytest.raises(UserError, match="hope: the two differ by .* fix this first"):
        hold("hope", {"the first two": 0.0, "the two": error})


@pytest.mark.parametrize("measure", [streaming_error, decoding_error])
def test_lossy_cache_is_detected(measure):
    model = create("hope-tiny", vocab_size=64, num_hidden_layers=1)
    assert measure(model) < 1e-5
    stream = model.backbone.stream

    def forgetful(x, states=None, flow=None, **options):
        return stream(x, None, flow, **options)

    model.backbone.stream = forgetful
    assert measure(model) > 1e-3


def test_errors_are_relative():
    from nestling_lab.bench.gate import relative

    assert relative(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)
