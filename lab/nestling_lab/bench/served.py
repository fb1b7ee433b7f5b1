"""A server process that can be asked over HTTP, killed and restarted."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models.pretrained import load_base, new_llama, save_stacked, studied_level

LONGEST = 300.0  # seconds, time limit for a start and for a response
PAGE = 4096 if not hasattr(os, "sysconf") else os.sysconf("SC_PAGE_SIZE")


def tiny_model(folder: Path) -> Path:
    """A folder with a random two-layer byte-level Llama that can study, to serve."""
    base, out = folder / "base", folder / "tiny"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "length": 512}
    new_llama(vocab_size=258, seed=0, **sizes).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    save_stacked(load_base(str(base)), (studied_level(8),), "low-rank", out)
    return out


class Server:
    """A ``nestling serve`` process with a model and a store; ``up`` is set while it responds."""

    def __init__(self, model: Path, store: Path, *options: str):
        self.model, self.store, self.options = model, store, options
        self.port, self.life = 0, 0  # life: how often it was started
        self.up = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The name of the model in requests."""
        return self.model.resolve().name

    @property
    def said(self) -> str:
        """The output of the current process."""
        return self._file("out").read_text(encoding="utf-8")

    def _file(self, kind: str) -> Path:
        return self.store.parent / f"server-{self.life}.{kind}"

    def start(self) -> None:
        """Start the server, on the same port as before, and wait until it responds."""
        self.life += 1
        place = ["--store", str(self.store), "--port", str(self.port)]
        command = [sys.executable, "-m", "nestling", "serve", str(self.model), *place]
        with open(self._file("out"), "wb") as out, open(self._file("err"), "wb") as err:
            self._process = subprocess.Popen([*command, *self.options], stdout=out, stderr=err)
        end = time.monotonic() + LONGEST
        while not (found := re.search(r"127\.0\.0\.1:(\d+)/v1", self.said)):
            self._look(end)
        self.port = int(found[1])
        while not self._answers():
            self._look(end)
        self.up.set()

    def _look(self, end: float) -> None:
        assert self._process is not None
        if self._process.poll() is not None or time.monotonic() > end:
            error = self._file("err").read_text(encoding="utf-8")[-500:]
            raise UserError(f"the server did not start: {error or self.said}")
        time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.call("GET", "/health")[0] == 200
        return False

    def end(self, how: int = signal.SIGTERM) -> int:
        """Stop the server with a signal, and return its exit status."""
        assert self._process is not None
        self.up.clear()
        self._process.send_signal(how)
        return self._process.wait(LONGEST)

    def resident_mib(self) -> float:
        """The resident memory of the process, MiB."""
        assert self._process is not None
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        except OSError as error:
            raise UserError("the memory of a process can be read on Linux only") from error
        return int(pages) * PAGE / 2**20

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and JSON of the response."""
        with self._asked(method, path, body) as found:
            return found.status, json.loads(found.read() or b"null")

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """Yield the events of a stream. Raises UserError for a status other than 200."""
        with self._asked("POST", path, body) as found:
            if found.status != 200:
                raise UserError(f"{found.status}: {found.read()[:200].decode(errors='replace')}")
            for line in found:
                if line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))
                elif line.startswith(b"data: [DONE]"):
                    return
            raise UserError("a stream ended without [DONE]")

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: Any) -> Generator[http.client.HTTPResponse]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)
        with contextlib.closing(link):
            content = None if body is None else json.dumps(body)
            link.request(method, path, content, {"Content-Type": "application/json"})
            yield link.getresponse()
