"""The error a user can cause and put right, and the hint that helps."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input: one line that says what is wrong and what to do.

    The command line prints the message as ``error: ...`` and ends with exit code 2.
    """


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Name the nearest known choice, or list all of them.

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
