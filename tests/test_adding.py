"""The examples of docs/adding.md, put into a copy of the library as the page says, do what it says.

The first line of a block of Python says where it goes:

    # some/file.py                  the whole of a new file
    # some/file.py, in TABLE        lines of a table (what imports something goes to the top)
    # some/file.py, above NAME      into the file, before what is called so

A block without such a line is run, and what it prints is what stands behind its prints.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "adding.md"
COPIED = ("nestling", "lab/nestling_lab", "tests/support", "tests/conformance", "tests/equations")
WHERE = re.compile(r"# ([\w/]+\.py)(?:, (in|above) (\w+))?\n")
# after the blocks: conformance tests of the tables, and docstring examples
LAWS = """
import doctest, importlib, sys
import pytest
import nestling.optim.sign_momentum
assert doctest.testmod(nestling.optim.sign_momentum).attempted
tests = ["tests/conformance/test_memories.py", "tests/equations/test_nested_learning.py"]
options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
options += ["-c", "pyproject.toml", "--rootdir", "."]
sys.exit(pytest.main([*options, "-k", "leaky_average or pseudo_huber", *tests]))
"""


def sections() -> dict[str, list[str]]:
    """The Python of every section of the page that has some."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {
        title: re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: blocks for title, blocks in found.items() if blocks}


def placed(root: Path, block: str) -> bool:
    """Put a block where its first line says; False if it names no file."""
    where = WHERE.match(block)
    if where is None:
        return False
    name, how, what = where.groups()
    file, body = root / name, block[where.end() :]
    if how is None:
        assert not file.exists(), f"{name} is there already"
        file.write_text(body, encoding="utf-8")
        return True
    text = file.read_text(encoding="utf-8")
    table = re.search(rf"^{what}\b", text, re.MULTILINE)
    assert table is not None, f"{what} is not in {name}"
    if how == "above":
        text = f"{text[: table.start()]}{body}\n\n{text[table.start() :]}"
    else:
        imports = re.findall(r"^from .*\n", body, re.MULTILINE)
        rows = re.sub(r"^from .*\n", "", body, flags=re.MULTILINE).strip()
        begin = text.index("{\n", table.start()) + 2
        text = f"{text[:begin]}{rows}\n{text[begin:]}"
        first = text.index("\nfrom ") + 1
        text = text[:first] + "".join(imports) + text[first:]
    file.write_text(text, encoding="utf-8")
    return True


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A copy of the library with all additions of the page."""
    root = tmp_path_factory.mktemp("library")
    for name in COPIED:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for blocks in sections().values():
        for block in blocks:
            placed(root, block)
    return root


def run(library: Path, code: str) -> str:
    """The output of a new process with this library only."""
    paths = [library, library / "lab", library / "tests" / "support"]
    done = subprocess.run(
        [sys.executable, "-c", f"import torch\ntorch.set_num_threads(1)\n{code}"],
        cwd=library,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_one_of_each_kind():
    kinds = ("A memory", "A rule", "An objective", "A study", "An optimizer", "A verb")
    assert set(sections()) == set(kinds)
    for kind, blocks in sections().items():
        places = [WHERE.match(block) for block in blocks]
        assert any(place and place[2] == "in" for place in places), f"{kind}: no line of a table"
        assert None in places, f"{kind}: nothing is run"


def test_examples_work_and_pass_conformance(library):
    blocks = [b for found in sections().values() for b in found if WHERE.match(b) is None]
    # each separately, because readers start anywhere
    code = "\n".join(f"exec({block!r}, {{}})" for block in blocks)
    expected = re.findall(r"^(?:print|main)\(.*\)  # (.*)$", "\n".join(blocks), flags=re.MULTILINE)
    printed, laws = run(library, f"{code}\nprint('the laws', flush=True)\n{LAWS}").split(
        "the laws\n"
    )
    assert printed.splitlines() == expected and expected
    assert re.search(r"\d\d passed", laws), laws
