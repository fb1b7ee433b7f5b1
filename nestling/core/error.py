"""Errors that a user can correct, and hints for them."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input: one line that says what is wrong and what to do.

    The command line prints the message as ``error: ...`` and exits with code 2.
    """


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known choice, or a list of all.

    >>> did_you_mean("hope-tinny", ["hope-tiny", "transformer-tiny"])
    "did you mean 'hope-tiny'?"
    >>> did_you_mean("zzz", ["b", "a"])
    'known: a, b'
    >>> did_you_mean("zzz", [])
    'known: none'
    """
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
