"""Learners for the tests: of a tiny transformers model and of one of ours."""

import pytest
import torch
from tiny_bases import VOCABULARY, tiny_base

from nestling.continual import ContinualLearner
from nestling.data import byte_tokenizer
from nestling.models import create
from nestling.models.pretrained import parse_levels

LEVELS = "8:1e-2,32:1e-2:momentum"


def of_llama():
    """A llama of 4 layers; a window of 64 tokens."""
    return tiny_base("llama")


def of_hope():
    """Hope with two CMS levels."""
    return create(
        "hope-tiny",
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_heads=2,
        intermediate_size=16,
        periods=(8, 32),
        **{"self_titans.period": 8, "self_titans.projection_period": 4},
    )


MODELS = {"llama": of_llama, "hope": of_hope}


@pytest.fixture(scope="session")
def models():
    """Models, created once because a learner never changes them."""
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(params=list(MODELS))
def kind(request):
    return request.param


@pytest.fixture
def new_learner(models, kind):
    """Makes a fresh learner of one base; options as ContinualLearner takes them."""

    def make(levels=LEVELS, **options):
        return ContinualLearner(models[kind], levels=parse_levels(levels), **options)

    return make


@pytest.fixture(scope="session")
def ids():
    """200 tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCABULARY, (200,), generator=generator).tolist()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny llama with a byte tokenizer, saved by transformers."""
    place = tmp_path_factory.mktemp("base") / "llama"
    tiny_base("llama", vocab_size=258).save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place
