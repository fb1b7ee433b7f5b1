"""Fixtures: a small model of every family, and a text."""

import pytest
import torch
from small_models import FAMILIES, small

from nestling.models import HopeForCausalLM


@pytest.fixture(params=FAMILIES)
def model(request) -> HopeForCausalLM:
    return small(request.param)


@pytest.fixture
def hope() -> HopeForCausalLM:
    return small("hope")


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 97, (3, 37), generator=torch.Generator().manual_seed(3))
