"""Text coloured by the surprise of each piece."""

import html
from collections.abc import Iterable

MOST = 8.0  # nats shown in the full colour
STRONGEST = 0.7  # opacity of the full colour, which keeps text readable in light and dark


def coloured_html(pieces: Iterable[tuple[str, float | None]]) -> str:
    """An HTML paragraph of text pieces, coloured by their loss in nats (None: not predicted).

    >>> coloured_html([("A ", None), ("<b>", 4.0)])
    '<p class="told">A <span style="background:rgba(213,94,0,0.35)" \
title="4.0 nats">&lt;b&gt;</span></p>'
    """
    parts = []
    for text, nats in pieces:
        shown = html.escape(text)
        if nats is None:
            parts.append(shown)
            continue
        strength = STRONGEST * max(0.0, min(nats / MOST, 1.0))
        parts.append(
            f'<span style="background:rgba(213,94,0,{strength:.2f})" '
            f'title="{nats:.1f} nats">{shown}</span>'
        )
    return f'<p class="told">{"".join(parts)}</p>'


def scale_html() -> str:
    """The legend of the colours."""
    marks = [(f"{nats:.0f}", nats) for nats in (0.0, 2.0, 4.0, 6.0, 8.0)]
    steps = "".join(
        f'<span style="background:rgba(213,94,0,{STRONGEST * nats / MOST:.2f})">&nbsp;{name}&nbsp;'
        "</span>"
        for name, nats in marks
    )
    return f'<p class="scale">nats of surprise per token: {steps}</p>'
