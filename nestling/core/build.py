"""The version and commit of this build, and the releases it runs on. Does not import torch."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMIT = Path(__file__).resolve().parents[1] / "COMMIT"  # written into a wheel by hatch_build.py
# files that a study writes beside the source
UNCOUNTED = (":(exclude)results", ":(exclude)benchmarks/results")


def release(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit(root: Path = ROOT) -> str:
    """The commit of the source, with "-dirty" if files other than Results have been changed.

    For an installed package this is the commit it was built from; "unknown" if there is neither a
    repository nor a recorded commit.
    """
    if root == ROOT and COMMIT.exists():
        return COMMIT.read_text(encoding="utf-8").strip()
    # a .git further up belongs to another project, in which this one is installed
    if not (root / ".git").exists():
        return "unknown"
    try:
        name = _git(root, "describe", "--always", "--abbrev=12")
        changes = _git(root, "status", "--porcelain", "-uno", "--", ".", *UNCOUNTED)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name}-dirty" if changes else name


def _git(root: Path, *asked: str) -> str:
    command = ["git", "-C", str(root), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def facts(version: str) -> str:
    """Versions and platform on one line, for bug reports."""
    on = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    with_ = ", ".join(f"{name} {release(name)}" for name in ("torch", "transformers"))
    return f"nestling {version} (commit {commit()}; {on}; {with_})"
