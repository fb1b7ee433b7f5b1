"""Names in the documentation exist, and its examples run."""

import ast
import dataclasses
import functools
import math
import re
import shlex
from pathlib import Path

import pytest
from apart import run_apart
from page_examples import run_examples

from nestling.cli import eval as eval_verb
from nestling.cli.main import VERBS, _parse, added_verbs, module_of
from nestling.cli.train import settings
from nestling.data import CORPORA
from nestling.evals.run import plan_of, variants
from nestling.evals.suite import suite
from nestling.memories import MEMORIES
from nestling.models import configure, preset_names
from nestling.optim.build import optimizer_names
from nestling.tasks import TASKS
from nestling_lab.studies import STUDIES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


@functools.cache
def names(path: Path) -> set[str]:
    """What a file defines at its top, and the methods of its classes as Class.method."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
            found |= {f"{node.name}.{n.name}" for n in inside}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def commands(*pages: Path) -> list[str]:
    lines = (line for page in pages for block in blocks(page, "sh") for line in block.splitlines())
    shown = [line for line in lines if line.startswith("nestling ")]
    return [command for line in shown for command in line.split(" && ")]


@every_page
def test_every_path_and_name_exists(page):
    """`nestling/room/file.py:Name` and `tests/file.py::test_name`; <...> stands for a new name.

    Files that a code block shows in full may be new.
    """
    pattern = r"(?<![\w/])((?:nestling|lab|tests)/[\w./<>-]*)(:{1,2}[A-Za-z_][\w.]*)?"
    text = re.sub(r"^```python\n# \S+\.py\n", "", read(page), flags=re.MULTILINE)
    for path, name in re.findall(pattern, text):
        if "<" in path:
            continue
        file = ROOT / path
        assert file.exists(), path
        assert not name or name.strip(":") in names(file), path + name


@every_page
def test_every_test_named_without_its_file_exists(page):
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "lab").rglob("test_*.py")]
    known = {name for path in files for name in names(path)}
    assert set(re.findall(r"`(test_\w+)`", read(page))) <= known


@every_page
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)\)", read(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_row_of_the_equations_names_code_and_test():
    rows = [line for line in read(ROOT / "docs" / "equations.md").splitlines() if line[:1] == "|"]
    assert len(rows) > 20
    for row in rows[2:]:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 5, row
        assert "nestling" in cells[3] and "tests/" in cells[4], row


def numbers(text: str) -> set[int]:
    """The equations that a cell names: "10-13, 33"; numbers of definitions and tables are none."""
    for name in ("Def", "section", "sec.", "Table", "Algorithm"):
        text = re.sub(rf"{re.escape(name)} [\d., ]+", "", text)
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return {n for a, b in spans for n in range(int(a), int(b or a) + 1)}


def test_every_equation_of_the_paper_is_in_the_table():
    """121 of them in the long version."""
    page = read(ROOT / "docs" / "equations.md")
    rows = [line for line in page.splitlines() if line[:1] == "|"][2:]
    found = set().union(*(numbers(row.strip("|").split(" | ")[0]) for row in rows))
    assert found == set(range(1, 122))


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("memories", MEMORIES.names()),
        ("corpora", CORPORA.names()),
        ("tasks", TASKS.names()),
        ("studies", STUDIES.names()),
        ("optimizers", optimizer_names()),
        ("families", sorted({name.rsplit("-", 1)[0] for name in preset_names()})),
        ("sizes", sorted({f"-{name.rsplit('-', 1)[1]}" for name in preset_names()})),
    ],
)
def test_every_entry_of_every_table_is_mentioned(kind, entries):
    text = "".join(map(read, PAGES))
    missing = [name for name in entries if f"`{name}`" not in text]
    assert not missing, f"{kind} without a word in README.md or docs/"


def test_every_verb_is_shown():
    shown = commands(ROOT / "docs" / "commands.md")
    assert {shlex.split(command)[1] for command in shown} == {*VERBS, *added_verbs()}


@pytest.mark.parametrize("command", commands(*PAGES))
def test_every_command_shown_parses(command):
    _, verb, *arguments = shlex.split(command, comments=True)
    module = module_of(verb)
    assert hasattr(_parse(module.Command, verb, arguments), "run")


def experiments() -> list[str]:
    """The commands in the running text and the tables of docs/experiments.md."""
    return re.findall(r"`(nestling [^`]*)`", read(ROOT / "docs" / "experiments.md"))


@pytest.mark.parametrize("command", experiments())
def test_every_experiment_command_parses(command):
    _, verb, *arguments = shlex.split(command)
    if verb == "report" or "..." in command:
        return
    module = module_of(verb)
    parsed = _parse(module.Command, verb, arguments)
    if isinstance(parsed, eval_verb.Tasks):
        names = parsed.tasks.split(",") if parsed.tasks else suite(parsed.suite)
        plan = plan_of(
            names,
            settings(parsed.set),
            fit=parsed.fit,
            sweep=parsed.sweep,
            protocol=parsed.protocol,
        )
        for name in names:
            assert variants(name, dataclasses.replace(plan, lengths=parsed.lengths))
        if parsed.fit:
            configure(parsed.model, **plan.model)


def test_makefile_has_the_targets_shown():
    targets = re.findall(r"^([\w-]+):", read(ROOT / "Makefile"), re.MULTILINE)
    shown = re.findall(r"^make ([\w-]+)", "\n".join(blocks(README, "sh")), re.MULTILINE)
    assert set(shown) == {"demo", "docs", "test"} and set(shown) <= set(targets)


def test_the_examples_run(tmp_path):
    """Page by page, in order, in one process, each in an empty folder."""
    pages = [README, ROOT / "docs" / "models.md"]
    code = {tmp_path / page.stem: "\n".join(blocks(page, "python")) for page in pages}
    told = run_apart(run_examples, code)
    # the second page prints, the first does not
    printed = re.fullmatch(r"loss (\S+), (\S+) parameters\n", told)
    assert printed is not None, told
    loss, parameters = printed.groups()
    assert abs(float(loss) - math.log(256)) < 0.3
    assert int(parameters.replace(",", "")) < 1_000_000
