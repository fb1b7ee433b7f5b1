"""nestling serve: answer over HTTP, with memories that learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nestling.serve.settings import Limits


@dataclass(frozen=True, kw_only=True)
class Command:
    """Serve a model: answers as the OpenAI API gives them, memories that learn, and a page."""

    model: tyro.conf.Positional[str]
    """Adapted folder, or folder of `nestling train`: what `nestling ask` takes."""
    store: Path = Path("serve")
    """Folder for memories, keys and jobs; made where there is none."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine's own need a key first (`nestling keys`)."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    name: str = ""
    """What requests call the model; by default the name of its folder."""
    study: Literal["light", "full"] | None = None
    """How thoroughly documents are studied; full by default."""
    budget: int | None = None
    """Most writes of study for each document."""
    limits: Limits = Limits()
    """What is refused."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""

    def run(self) -> None:
        """Serve until Ctrl-C; what is being learned then goes on at the next start."""
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
