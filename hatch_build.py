"""Writes the commit into a wheel and an sdist, where no repository will say it."""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Commit(BuildHookInterface):
    """Adds nestling/COMMIT; an editable install has its repository."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hand hatchling the file under the name it has in the package."""
        if version != "standard":
            return
        file = Path(self.root) / "nestling" / "core" / "build.py"
        spec = importlib.util.spec_from_file_location("build_facts", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        written = Path(self.directory) / "COMMIT"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(f"{module.commit()}\n", encoding="utf-8")
        self.written = written
        build_data["force_include"][str(written)] = "nestling/COMMIT"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Leave nothing beside the artifact."""
        if version == "standard":
            self.written.unlink()
