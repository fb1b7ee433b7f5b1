"""Terminals whose encoding lacks some characters."""

import io
import os
import re
import sys
from collections.abc import Sequence


def show_everything() -> None:
    r"""Print characters that a stream's encoding lacks as escapes, such as \xe9."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def decode_arguments(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments; bytes that the locale cannot decode are read as UTF-8."""
    return [
        os.fsencode(text).decode("utf-8", "surrogateescape")
        if re.search("[\udc80-\udcff]", text)
        else text
        for text in arguments
    ]
