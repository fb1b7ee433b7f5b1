"""Settings that every test runs under."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a device that is not there, and say so."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
