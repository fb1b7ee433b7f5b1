"""`nestling VERB ...`: imports the module of the verb that is called, and no other.

A verb's module has a ``Command``: a frozen dataclass whose fields are the options, or a union of
such classes for a verb with subcommands; ``run()`` does the work. A user error prints one line,
``error: ...``, and exits with code 2. A package adds a verb by an entry point of the group
``nestling.verbs``: its name is the verb, its value the module, whose docstring begins with
``nestling VERB: what it does``.
"""

import contextlib
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from nestling import __version__
from nestling.cli.terminal import decode_arguments, show_everything
from nestling.core.allocator import keep_freed_memory
from nestling.core.build import facts
from nestling.core.error import UserError, did_you_mean

VERBS = {
    "demo": "show a pretrained model learning a text, and a small Hope remembering one",
    "data": "list, fetch, verify and tokenize corpora",
    "train": "train a language model",
    "eval": "evaluate any causal language model: lm, commonsense, niah and other tasks",
    "generate": "continue a text with a trained model",
    "levels": "print the levels of a model and its optimizer",
    "plan": "estimate what a training run needs: parameters, operations, memory, days",
    "report": "compare results of eval side by side on one page",
    "adapt": "prepare a pretrained model for continual learning",
    "learn": "learn from texts and keep what was learned in a memory file",
    "ask": "answer questions with what a model has learned",
    "serve": "serve the OpenAI API, with memories that learn, and a web page",
    "keys": "add, list and remove the API keys of a server",
    "memory": "inspect, copy, merge, reset, export, share and consolidate memory files",
    "list": "list every preset, memory, corpus, task and optimizer",
    "completion": "print a completion script for your shell",
}
LABORATORY = ("study", "bench")  # verbs of the lab package, which is in no wheel
LONG_RUNNING = ("serve",)  # memory that these processes free is returned to the system
GROUP = "nestling.verbs"  # entry points: verbs of other packages
USER_ERROR = 2
INTERRUPTED = 130  # what a shell reports after Ctrl-C
# file system errors that only the user can fix
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def added_verbs() -> dict[str, EntryPoint]:
    """The verbs that other installed packages add; none replaces a built-in one."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in VERBS}


def module_of(verb: str) -> ModuleType:
    """The module of a verb; an unknown one, or one that cannot be loaded, raises UserError."""
    if verb in VERBS:
        return importlib.import_module(f"nestling.cli.{verb}")
    others = added_verbs()
    if verb not in others and verb in LABORATORY:
        raise UserError(
            f"nestling {verb} measures the project itself and is not installed with it: "
            "in a checkout of its repository run pip install -e . -e lab"
        )
    if verb not in others:
        raise UserError(f"unknown command {verb!r}: {did_you_mean(verb, [*VERBS, *others])}")
    try:
        return others[verb].load()
    except ImportError as error:
        raise UserError(f"{others[verb].value} cannot be loaded: {error}") from error


def summary(verb: str) -> str:
    """A one-line summary of another package's verb, from its docstring."""
    try:
        told = (module_of(verb).__doc__ or "").strip().partition("\n")[0]
    except UserError as error:
        return str(error)
    return told.removeprefix(f"nestling {verb}: ").rstrip(".")


def usage() -> str:
    """The help of the program."""
    verbs = VERBS | {verb: summary(verb) for verb in sorted(added_verbs())}
    width = max(map(len, verbs))
    lines = [f"  {verb:<{width}}  {what}" for verb, what in verbs.items()]
    return "\n".join(
        ["usage: nestling VERB ...", "", *lines, "", "nestling VERB --help tells more"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, 2 for a user error, 130 for Ctrl-C."""
    show_everything()
    try:
        return _dispatch(decode_arguments(sys.argv[1:]) if arguments is None else list(arguments))
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # the reader closed the pipe; without this, Python's final flush fails again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            f"cannot write{where}: {error.strerror}; choose a writable folder with free space"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-V", "--version"):
        print(facts(__version__))
        return 0
    command = _parse(module_of(verb).Command, verb, rest)
    if command is not None:
        if verb not in LONG_RUNNING:
            keep_freed_memory()
        command.run()
    return 0


def _parse(command: Any, verb: str, arguments: list[str]) -> Any:
    """The command with its options set; None if help was printed."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, prog=f"nestling {verb}", args=arguments)
    except SystemExit as end:
        if end.code in (0, None):
            return None
        message = one_line(complaint.getvalue())
        raise UserError(f"{message} (nestling {verb} --help)") from None


def one_line(complaint: str) -> str:
    r"""The message in the framed page that tyro prints about an option.

    >>> page = ["Options", "---", "Unrecognized: --stpes", "---"]
    >>> one_line("\n".join([*page, "Perhaps you meant:", "--steps INT"]))
    'Unrecognized: --stpes: did you mean --steps?'
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    parts: list[list[str]] = [[]]
    for line in plain.splitlines():
        row = line.strip("\u2502| ")
        if not row or row[0] in "\u256d\u2570":  # the frame, with the title in it
            continue
        if re.fullmatch("[-\u2500]+", row):
            parts.append([])
        else:
            parts[-1].append(row)
    if "\u256d" not in plain:  # without frame characters the title is a part of its own
        parts = parts[1:] or parts
    message = " ".join(parts[0]) or "the options cannot be read"
    for part in parts[1:]:
        if part and part[0].startswith("Perhaps you meant") and len(part) > 1:
            message += f": did you mean {re.split('[ ,]', part[1])[0]}?"
    return message


if __name__ == "__main__":
    sys.exit(main())
