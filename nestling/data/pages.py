"""HTML pages and Markdown to the text that a reader sees."""

import re
from html.parser import HTMLParser

_BLOCKS = """
address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 header hr html main nav ol p pre section summary table tbody tfoot
thead ul
"""
_INLINE = """
a abbr acronym area audio b base bdi bdo big button canvas caption cite code col colgroup data
datalist del dfn em embed font head i iframe img input ins kbd label legend link map mark meta meter
noscript object optgroup output param picture progress q rp rt ruby s samp select small source span
strike strong sub sup svg textarea time track tt u var video wbr
"""
BLOCKS, INLINE = frozenset(_BLOCKS.split()), frozenset(_INLINE.split())
ROWS = frozenset({"li", "tr", "option"})  # blocks without a blank line between them
CELLS = frozenset({"td", "th"})
HIDDEN = frozenset({"script", "style", "template", "title"})
TAGS = BLOCKS | ROWS | CELLS | HIDDEN | INLINE | {"br"}


class _Page(HTMLParser):
    """Collects the blocks of a page; preformatted ones keep their whitespace."""

    def __init__(self, foreign: bool):
        super().__init__(convert_charrefs=True)
        self.foreign = foreign  # whether tags unknown to HTML are text
        self.blocks: list[tuple[str, str]] = []  # text, and the kind of row it is, if any
        self.parts: list[str] = []
        self.row = ""
        self.hidden = self.pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in HIDDEN
        if tag in BLOCKS | ROWS:
            self.close_block()
        self.row = self.row or (tag if tag in ROWS else "")
        self.pre += tag == "pre"
        if tag == "li":
            self.parts.append("- ")
        elif tag == "br":
            self.parts.append("\n")
        elif tag in CELLS and "".join(self.parts).strip():
            self.parts.append(" | ")
        elif tag not in TAGS and self.foreign:
            self.handle_data(self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in TAGS:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in HIDDEN and self.hidden > 0
        if tag in BLOCKS | ROWS:
            self.close_block()
        elif tag not in TAGS and self.foreign:
            self.handle_data(f"</{tag}>")
        if tag in ROWS:
            self.parts, self.row = [], ""
        self.pre -= tag == "pre" and self.pre > 0

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.pre else re.sub(r"[ \t\r\n\f]+", " ", data))

    def close_block(self) -> None:
        """End the current block; an empty one is dropped."""
        text = "".join(self.parts)
        text = text.strip("\n") if self.pre else re.sub(" *\n *| {2,}", _shortest, text).strip()
        if text.strip() and text != "-":
            self.blocks.append((text, self.row))
            self.parts, self.row = [], ""
        elif not self.row:
            self.parts = []


def _shortest(blanks: re.Match[str]) -> str:
    return "\n" if "\n" in blanks[0] else " "


def html_text(page: str, *, foreign: bool = False) -> str:
    """The text of an HTML page: blank lines between paragraphs, one line per item or table row.

    Scripts, styles and the title are left out. With ``foreign``, a tag that is not HTML, such as
    `<name>`, is kept as text.

    >>> html_text("<title>T</title><h1>One</h1><p>a <b>b</b>\\n&amp; c<ul><li>d<li>e</ul>")
    'One\\n\\na b & c\\n\\n- d\\n- e'
    """
    parser = _Page(foreign)
    parser.feed(page)
    parser.close()
    parser.close_block()
    text, last = "", ""
    for block, row in parser.blocks:
        text += ("\n" if row and row == last else "\n\n") * bool(text) + block
        last = row
    return text


def markdown_text(source: str) -> str:
    """The text of Markdown (CommonMark with tables), without its markup; code is kept verbatim.

    >>> markdown_text("# One\\n\\nSome *text*, `ssh <host>` and [a link](http://x).")
    'One\\n\\nSome text, ssh <host> and a link.'
    """
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return html_text(renderer.render(source), foreign=True)
