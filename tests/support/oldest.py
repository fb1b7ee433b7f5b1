"""Constraints for pip: the oldest allowed releases of all requirements.

python tests/support/oldest.py > constraints-oldest.txt
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def oldest(requirements: list[str]) -> dict[str, str]:
    """The lower bound of each requirement, by name.

    >>> oldest(["torch>=2.11", "transformers>=5.18,<6"])
    {'torch': '2.11', 'transformers': '5.18'}
    """
    found = (re.fullmatch(r"([\w-]+)>=([\d.]+)(,.*)?", one) for one in requirements)
    return {match[1].lower(): match[2] for match in found if match}


def main() -> None:
    """Print one constraint per line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = oldest(project["dependencies"])
    assert len(bounds) == len(project["dependencies"]), "a dependency has no lower bound"
    print("\n".join(f"{name}=={version}" for name, version in bounds.items()))
    # test tools stay pinned; their dependencies are resolved freely
    tools = oldest(project["optional-dependencies"]["dev"])
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    print("\n".join(line for line in pinned if line.split("==")[0].lower() in tools))


if __name__ == "__main__":
    main()
