"""The examples of pages, to be run in a process of their own."""

import contextlib
import io
import os
import warnings
from pathlib import Path


def run_examples(pages: dict[Path, str]) -> str:
    """What the code of each page prints that is run in a folder of its own, page by page."""
    told = io.StringIO()
    warnings.simplefilter("error", FutureWarning)
    with contextlib.redirect_stdout(told):
        for folder, code in pages.items():
            folder.mkdir()
            os.chdir(folder)
            exec(compile(code, folder.name, "exec"), {"__name__": folder.name})
    return told.getvalue()
