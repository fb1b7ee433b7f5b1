"""The examples of pages, to be run in a process of their own."""

import contextlib
import io
import os
import warnings
from pathlib import Path


def run_examples(pages: dict[Path, str]) -> str:
    """What the code of each page prints that is run in a folder of its own, page by page."""
    warnings.simplefilter("error", FutureWarning)
    return "".join(_in_a_folder(folder, code) for folder, code in pages.items())


def _in_a_folder(folder: Path, code: str) -> str:
    folder.mkdir()
    os.chdir(folder)
    return told(code, folder.name)


def told(code: str, name: str = "example") -> str:
    """What a piece of code prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {"__name__": name})
    return printed.getvalue()
