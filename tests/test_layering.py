"""A room imports only rooms of a lower floor; nothing of the library imports the laboratory."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nestling"
FLOORS = [
    ("core",),
    ("rules",),
    ("ops", "report", "data"),
    ("memories", "optim", "tasks"),
    ("models",),
    ("train",),
    ("evals", "continual"),
    ("demo",),
    ("cli",),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported(path: Path) -> set[str]:
    """Dotted names of every module imported anywhere in a file, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def tabled(path: Path) -> set[str]:
    """Modules named in a registry table, which are imported by name: "module:attribute"."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return {text.split(":")[0] for text in strings if text.startswith("nestling.") and ":" in text}


def room_of(name: str) -> str:
    return name.split(".")[1]


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in FILES}
    assert rooms <= set(FLOOR), f"give {rooms - set(FLOOR)} a floor"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path):
    room = path.relative_to(PACKAGE).parts[0]
    for name in imported(path) | tabled(path):
        if not name.startswith("nestling."):
            continue
        other = room_of(name)
        if other == room or other == "__version__":
            continue
        assert FLOOR[other] < FLOOR[room], f"{room} must not import {name}"


def test_the_library_knows_nothing_of_the_laboratory():
    for path in PACKAGE.rglob("*.py"):
        assert "nestling_lab" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_imports_torch_and_jaxtyping_only(path: Path):
    allowed = set(sys.stdlib_module_names) | {"torch", "jaxtyping", "nestling"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


def test_only_the_models_and_the_data_meet_transformers():
    """The tokenizer is wrapped for saving in data/; everything else goes through models/."""
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in FILES
        if any(name.split(".")[0] == "transformers" for name in imported(path))
    }
    assert users <= {"models", "data"}
