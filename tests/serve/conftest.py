"""A tiny model, and a server shared by the tests."""

import functools

import pytest
from serving import NAME, official, started, tiny_stacked

from nestling.serve.model import serve_model


@pytest.fixture(scope="session")
def served():
    return serve_model(tiny_stacked(), name=NAME)


@pytest.fixture(scope="session")
def start(served):
    """Starts a server of the tiny model on a store, and returns a client."""
    return functools.partial(started, served)


@pytest.fixture(scope="session")
def http(start, tmp_path_factory):
    """A plain client of a server without keys."""
    with start(tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(scope="session")
def client(http):
    """The official client of the same server."""
    return official(http)
