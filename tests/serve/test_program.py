"""`nestling serve` and `nestling keys`: errors, and a server from the command line."""

import logging
import socket
import threading

import httpx2
import pytest
import uvicorn
from cli_calls import failed, run
from serving import tiny_stacked

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.data.lock import locked
from nestling.serve import program
from nestling.serve.keys import database_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder written by `nestling adapt`."""
    place = tmp_path_factory.mktemp("model")
    made = tiny_stacked()
    made.model.save_pretrained(place / "base")
    made.tokenizer.save_pretrained(place / "base")
    assert main(["adapt", str(place / "base"), "--out", str(place / "small")]) == 0
    return place / "small"


def test_user_errors_are_one_line(folder, tmp_path, capsys):
    store = ("--store", tmp_path / "store")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = failed(capsys, "serve", folder, *store, "--port", port)
        assert f"port {port} is in use" in message
    for arguments, word in [
        ((tmp_path / "gone",), "gone"),
        ((folder, "--host", "0.0.0.0"), "nestling keys add"),
        ((folder, "--port", "99999"), "cannot listen"),
        ((folder, "--limits.rate", "0"), "above 0"),
        ((folder, "--budget", "0"), "budget"),
        ((folder, "--store", folder / "config.json"), "cannot"),
    ]:
        assert word in failed(capsys, "serve", *store, "--port", "0", *arguments)


def test_study_options_are_refused_for_a_model_with_levels(folder, tmp_path, capsys):
    model = tmp_path / "levels"
    run(capsys, "adapt", folder.parent / "base", "--levels", "8,32", "--out", model)
    for option in (("--study", "light"), ("--budget", "5")):
        told = failed(capsys, "serve", model, "--store", tmp_path / "s", "--port", "0", *option)
        assert f"{option[0]} has no effect" in told


def test_add_list_and_remove_keys(tmp_path, capsys):
    store = ("--store", tmp_path)
    key = run(capsys, "keys", "add", "laptop", *store, "--scopes", "ask, learn").strip()
    assert key.startswith("nk-")
    table = run(capsys, "keys", "list", *store)
    assert "laptop" in table and "ask,learn" in table and key.rpartition("-")[2] not in table
    assert "already" in failed(capsys, "keys", "add", "laptop", *store)
    assert "scope" in failed(capsys, "keys", "add", "b", *store, "--scopes", "all")
    assert "1 to 64" in failed(capsys, "keys", "add", "../b", *store)
    run(capsys, "keys", "remove", "laptop", *store)
    assert "no key" in failed(capsys, "keys", "remove", "laptop", *store)


def test_command_serves_until_terminated(folder, tmp_path, capsys, monkeypatch):
    """In this process, because uvicorn handles signals in the main thread."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            self.address = sockets[0].getsockname()
            ready.set()

    servers = []
    monkeypatch.setattr(program, "PATIENCE", 1)

    def new_server(config):
        servers.append(Server(config))
        return servers[0]

    monkeypatch.setattr(uvicorn, "Server", new_server)
    arguments = ("serve", folder, "--store", tmp_path, "--port", "0")
    database = database_in(tmp_path)
    values = (
        f"(1, 'local', 'm', '{'0' * 32}', 0, 0)",
        "(1, 'j', 1, '', 'a', 'running', 0, 0, '', NULL, 0, NULL, '')",
    )
    for table, row in zip(("memories", "jobs"), values, strict=True):
        database.change(f"INSERT INTO {table} VALUES {row}")
    found = []

    def store_is():
        try:
            with locked(tmp_path / "server"):
                return "free"
        except UserError:
            return "held"

    def ask():
        ready.wait()
        url = f"http://127.0.0.1:{servers[0].address[1]}"
        found.append(httpx2.get(f"{url}/v1/models").json()["data"][0]["id"])
        found.append(store_is())
        servers[0].should_exit = True

    thread = threading.Thread(target=ask)
    thread.start()
    out = run(capsys, *arguments)
    thread.join()
    assert found == ["small", "held"]
    assert "1 unfinished documents resume" in out
    assert "small on http://127.0.0.1" in out and "this machine only" in out
    logging.getLogger("nestling.serve").handlers.clear()
