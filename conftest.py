"""Settings that every test runs under, and what pytest does with kernels."""

import gc
import os
from importlib.util import find_spec

import checks
import hypothesis
import once
import pytest
import torch
import variation

gc.disable()  # until all is imported and collected, of which nothing becomes garbage
checks.install("nestling", "nestling_lab")

collect_ignore_glob = [] if find_spec("triton") else ["nestling/ops/*/triton*.py"]
if not torch.cuda.is_available():
    # Triton reads this when it is first imported, by whatever test that is
    os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=not variation.seed(), max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("house")
torch.set_num_threads(variation.threads())
if variation.seed():
    variation.shift_seeds(variation.seed())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a device that is not there, and say so."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """A million objects are there by now that no later look for garbage need go through."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def together(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The workers of a run make some things once for all of them."""
    base = tmp_path_factory.getbasetemp()
    once.place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """The tests that follow have the threads they are to have: more would fight for a processor."""
    found = torch.get_num_threads()
    if found != variation.threads():
        torch.set_num_threads(variation.threads())
        pytest.fail(f"{item.name} leaves torch {found} threads instead of {variation.threads()}")


def pytest_runtest_setup() -> None:
    """Count the calls of every function anew."""
    checks.begin()
