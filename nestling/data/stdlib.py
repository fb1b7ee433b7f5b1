"""Text that ships with every Python: language reference topics, docstrings and sources."""

import ast
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from nestling.core.error import UserError
from nestling.data.cache import digest, stamp
from nestling.data.source import Source

# tests, third-party packages, generated tables, and files that differ between machines
_OMITTED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_OMITTED |= {"encodings", "pydoc_data"}
_LICENCE = "PSF-2.0 (Python Software Foundation)"


def _root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def files(root: Path | None = None) -> list[Path]:
    """The source files of the standard library, sorted by name; nothing is imported."""
    root = root or _root()
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [n for n in below if n not in _OMITTED and not n.startswith("config-")]
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    if not found:
        raise UserError(
            f"no sources of the standard library under {root}; use a Python that ships them, "
            "or name a text file as the corpus"
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _topics(root: Path) -> Iterator[str]:
    path = root / "pydoc_data" / "topics.py"
    if not path.exists():
        return
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            topics = ast.literal_eval(statement.value)
            yield from (topics[name] for name in sorted(topics))


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _describe(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = prefix + child.name
        text = ast.get_docstring(child)
        if isinstance(child, ast.ClassDef):
            if text:
                yield f"class {name}\n\n{text}"
            yield from _describe(child, f"{name}.")
        elif text:
            yield f"{name}({ast.unparse(child.args)})\n\n{text}"


def docstrings(path: Path, root: Path) -> str:
    """The docstrings of one module as a page, in source order; empty if it has none."""
    name = _module_name(path, root)
    module = ast.parse(path.read_bytes())
    text = ast.get_docstring(module)
    parts = [text] if text else []
    parts += _describe(module, "")
    return "\n\n".join([f"module {name}", *parts]) if parts else ""


def read_docs(root: Path | None = None) -> Iterator[str]:
    """Yield the topics of the language reference, then one page of docstrings per module."""
    root = root or _root()
    yield from _topics(root)
    yield from (docstrings(path, root) for path in files(root))


def read_code(root: Path | None = None) -> Iterator[str]:
    """Yield the topics of the language reference, then the source of each module."""
    root = root or _root()
    yield from _topics(root)
    for path in files(root):
        with tokenize.open(path) as file:  # heeds the encoding declared in the source
            yield f"# {path.relative_to(root).as_posix()}\n{file.read()}"


def _version(kind: str) -> str:
    return digest([kind, sys.version, stamp(files())])


DOCS = Source(
    name="stdlib",
    summary="Python's reference topics and docstrings; nothing to fetch",
    licence=_LICENCE,
    read=read_docs,
    version=lambda: _version("docs"),
)
CODE = Source(
    name="stdlib-code",
    summary="Python's reference topics and the sources of its library; nothing to fetch",
    licence=_LICENCE,
    read=read_code,
    version=lambda: _version("code"),
)
