"""The examples of documentation pages, to be run in a separate process."""

import contextlib
import io
import os
import warnings
from pathlib import Path


def run_examples(pages: dict[Path, str]) -> str:
    """The output of each page's code, run page by page in separate folders."""
    warnings.simplefilter("error", FutureWarning)
    return "".join(_in_a_folder(folder, code) for folder, code in pages.items())


def _in_a_folder(folder: Path, code: str) -> str:
    folder.mkdir()
    os.chdir(folder)
    return told(code, folder.name)


def told(code: str, name: str = "example") -> str:
    """The output of a piece of code."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {"__name__": name})
    return printed.getvalue()
