"""The notebooks: small files, code whose names exist, and a run from top to bottom."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def cells(file):
    """The code of a notebook, cell by cell."""
    found = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return ["".join(one["source"]) for one in found if one["cell_type"] == "code"]


def named(tree):
    """Imported names, and dotted names of this library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            if re.fullmatch(r"nestling(\.\w+)+", whole):
                module, _, name = whole.rpartition(".")
                yield module, name


def test_there_is_a_notebook():
    assert NOTEBOOKS


@each
def test_notebook_code_compiles_and_names_exist(file):
    found = list(named(ast.parse("\n".join(cells(file)))))
    assert len(found) > 5
    for module, name in found:
        whole = importlib.import_module(module)
        if not hasattr(whole, name):
            importlib.import_module(f"{module}.{name}")


@each
def test_notebook_has_no_outputs(file):
    assert file.stat().st_size < 50_000
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
def test_memory_notebook_shows_expected_results(capsys):
    names = {}
    [file] = [one for one in NOTEBOOKS if one.stem == "memory"]
    for code in cells(file):
        exec(code, names)
    on, off = (
        names["task"].score(names["answers"](one, names["test"].input_ids), names["test"].labels)
        for one in (names["model"], names["frozen"])
    )
    assert on > 0.9 and off < 0.3
    told = capsys.readouterr().out
    assert names["difference"] < 1e-4
    assert "same answers: True" in told and "refused: " in told


@pytest.mark.slow
@each
def test_notebook_runs(file, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    whole = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(
        whole, timeout=1200, resources={"metadata": {"path": tmp_path}}
    ).execute()
