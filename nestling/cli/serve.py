"""nestling serve: an HTTP server with memories that learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nestling.serve.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Command:
    """Serve a model over the OpenAI API, with memories that learn and a web page."""

    model: tyro.conf.Positional[str]
    """Adapted folder, or folder of `nestling train`: what `nestling ask` takes."""
    store: Path = Path("serve")
    """Folder for memories, keys and jobs; created if there is none."""
    host: str = "127.0.0.1"
    """Address to listen on; one that others can reach needs a key first (`nestling keys`)."""
    port: int = 8000
    """Port to listen on; 0: any free one."""
    name: str = ""
    """Name of the model in requests; by default the name of its folder."""
    study: Literal["light", "full"] | None = None
    """How thoroughly documents are studied; full by default."""
    budget: int | None = None
    """Largest number of study steps for each document."""
    limits: Limits = Limits()
    """Limits on requests."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""

    def run(self) -> None:
        """Serve until Ctrl-C; unfinished learning resumes at the next start."""
        from nestling.serve.program import serve
        from nestling.serve.settings import Settings

        settings = Settings(
            store=self.store,
            host=self.host,
            port=self.port,
            limits=self.limits,
            study=self.study,
            budget=self.budget,
        )
        serve(self.model, settings, name=self.name, device=self.device)
