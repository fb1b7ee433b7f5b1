"""What the site is made of besides docs/: README, results, changes, notebooks, and the reference.

Links of the sources lead through the checkout; here they lead through the site. What has no page
of its own (code, folders of figures) is named without a link.
"""

import ast
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# page of the site -> file of the checkout
ELSEWHERE = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "LICENSE.md": "LICENSE"}
ROOMS = (
    "models", "continual", "memories", "rules", "optim", "train", "evals", "tasks", "data", "core",
    "report", "serve",
)  # fmt: skip
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    found = {page: ROOT / source for page, source in ELSEWHERE.items()}
    for source in sorted((ROOT / "results").rglob("*")):
        if source.suffix in (".md", ".svg"):
            found[page_of(source.relative_to(ROOT).as_posix())] = source
    for page, source in found.items():
        files.append(File.generated(config, page, abs_src_path=str(source)))
    for file in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{file.stem}.md", content=notebook(file)))
    files.append(File.generated(config, "reference/index.md", content=contents()))
    for room in ROOMS:
        page = f"reference/{room}.md"
        files.append(File.generated(config, page, content=reference(room)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links through the checkout into links through the site."""
    here = source_of(page.file.src_uri)
    pages = {source_of(file.src_uri): file.src_uri for file in files}

    def linked(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        if "://" in target:
            return match[0]
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        there = pages.get(whole) or pages.get(f"{whole}/README.md")
        if there is None:
            return text
        way = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
        return f"{mark}[{text}]({way}{anchor})"

    return LINK.sub(linked, markdown)


def page_of(source: str) -> str:
    """The page of a file of the checkout: a README stands for its folder."""
    folder, name = posixpath.split(source)
    return posixpath.join(folder, "index.md") if name == "README.md" else source


def source_of(page: str) -> str:
    """The file of the checkout that a page is made of."""
    if page in ELSEWHERE:
        return ELSEWHERE[page]
    folder, name = posixpath.split(page)
    if folder == "notebooks":
        return posixpath.join("docs", posixpath.splitext(page)[0] + ".ipynb")
    if folder.startswith("results"):
        return posixpath.join(folder, "README.md") if name == "index.md" else page
    return posixpath.join("docs", page)


def notebook(file: Path) -> str:
    """The cells of a notebook as a page, and a link to the notebook itself."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.insert(1, f'<a href="{file.name}" download>Download this notebook</a>')
    return "\n\n".join(parts) + "\n"


def contents() -> str:
    """The reference's first page."""
    lines = [f"- [nestling.{room}]({room}.md): {told(ROOT / 'nestling' / room)}" for room in ROOMS]
    return "# Reference\n\n" + "\n".join(lines) + "\n"


def reference(room: str) -> str:
    """The public names of a room, module by module, out of their docstrings."""
    parts = [f"# nestling.{room}\n\n{told(ROOT / 'nestling' / room)}\n"]
    for file in sorted((ROOT / "nestling" / room).rglob("*.py")):
        # the reference is read from packages: a folder on the way that is none hides what it holds
        top = ROOT / "nestling"
        above = [folder for folder in file.parents if top in (folder, *folder.parents)]
        whole = all((folder / "__init__.py").exists() for folder in above)
        if not whole or file.stem.startswith(("_", "triton")) or not public(file):
            continue
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        parts.append(f"## {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n")
    return "\n".join(parts)


def public(file: Path) -> bool:
    """Whether a module has a name for others."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    named = (node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return any(not name.startswith("_") for name in named)


def told(folder: Path) -> str:
    """The first line that a package says of itself."""
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
