"""A package imports only lower layers, and the library never imports the lab."""

import ast
import sys
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, LABORATORY = ROOT / "nestling", ROOT / "lab" / "nestling_lab"
FLOORS = [
    ("core",),
    ("rules",),
    ("ops", "report", "data"),
    ("memories", "optim", "tasks"),
    ("models",),
    ("train",),
    ("evals", "continual"),
    ("demo", "serve"),
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


def test_every_package_has_a_layer():
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


def test_library_does_not_import_lab():
    for path in PACKAGE.rglob("*.py"):
        assert "nestling_lab" not in path.read_text(encoding="utf-8"), path


def test_lab_imports_library_and_installed_packages_only():
    """No tests, and no stray files."""
    known = {*sys.stdlib_module_names, *packages_distributions(), "nestling", "nestling_lab"}
    known |= {"fla", "mambapy", "titans_pytorch", "pytorch_optimizer"}  # of extras
    for path in LABORATORY.rglob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} <= known, path


def at_import(path: Path, files: dict[str, Path]) -> set[str]:
    """Our modules that a file imports at import time, not within functions."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            wanted = (f"{node.module}.{alias.name}" for alias in node.names)
            found.update(name if name in files else f"{node.module}" for name in wanted)
    return found & set(files)


def test_no_import_cycles():
    files = {}
    for root in (PACKAGE, LABORATORY):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            files[".".join(parts).removesuffix(".__init__")] = path
    graph = {name: at_import(path, files) for name, path in files.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(files)


def test_wheel_holds_the_library_only():
    included = WheelBuilder(str(ROOT)).recurse_included_files()
    held = {Path(file.distribution_path) for file in included}
    assert {path.parts[0] for path in held} == {"nestling"}
    sources = (path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file())
    missing = {path for path in sources if "__pycache__" not in path.parts} - held
    assert not missing, "left out of the wheel"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_imports_torch_and_jaxtyping_only(path: Path):
    allowed = set(sys.stdlib_module_names) | {"torch", "jaxtyping", "nestling"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


def test_only_models_and_data_import_transformers():
    """The tokenizer is wrapped for saving in data/; everything else goes through models/."""
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in FILES
        if any(name.split(".")[0] == "transformers" for name in imported(path))
    }
    assert users <= {"models", "data"}
