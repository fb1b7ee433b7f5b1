"""Markup to plain text: HTML pages cut into sections, and SWORD Bible modules."""

import html
import re
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser

_BLOCKS = {"p", "div", "br", "li", "ul", "ol", "blockquote", "table", "tr", "td", "hr", "pre"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_HIDDEN = {"head", "script", "style"}


class _Sections(HTMLParser):
    """Collects the text of a page; an h1 or h2 heading starts a new section."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.sections: list[list[str]] = [[]]
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h1", "h2"):
            self.sections.append([])
        self.hidden += tag in _HIDDEN
        if tag in _BLOCKS | _HEADINGS:
            self.sections[-1].append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in _HIDDEN and self.hidden > 0
        if tag in _BLOCKS | _HEADINGS:
            self.sections[-1].append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.sections[-1].append(re.sub(r"\s+", " ", data))


def html_sections(page: str) -> list[str]:
    """The text of an HTML page, cut at its h1 and h2 headings.

    >>> html_sections("<h1>One</h1><p>a <b>b</b></p><h2>Two &amp; more</h2>c")
    ['One\\n\\na b', 'Two & more\\n\\nc']
    """
    parser = _Sections()
    parser.feed(page)
    parser.close()
    texts = ("".join(parts) for parts in parser.sections)
    tidy = (re.sub(r" *\n[ \n]*\n *", "\n\n", text).strip() for text in texts)
    return [text for text in tidy if text]


def sword_entries(index: bytes, verses: bytes, blocks: bytes) -> Iterator[str]:
    """The entries of a SWORD zText module (.bzs, .bzv, .bzz), in order, markup included.

    ``index`` has 12 bytes per block: offset, compressed size, size. ``verses`` has 10 bytes per
    entry: block, offset in the block, length.
    """
    places = struct.iter_unpack("<III", index)
    texts = [zlib.decompress(blocks[start : start + size]) for start, size, _ in places]
    for block, start, length in struct.iter_unpack("<IIH", verses):
        yield texts[block][start : start + length].decode()


def sword_chapters(entries: Iterator[str]) -> Iterator[str]:
    """Chapters with a heading, one verse per line, without notes, titles and introductions."""
    books, head, lines = {}, "", []
    for part in (
        part for entry in entries for part in re.split(r"(?=<chapter [^>]*\bsID=)", entry)
    ):
        chapter = re.match(r'<chapter [^>]*osisID="(\w+)\.(\w+)"', part)
        opened = re.search(r'<div [^>]*osisID="(\w+)"[^>]* sID="[^>]* type="book"', part)
        if opened:
            name = re.search(r'<milestone n="([^"]*)" type="x-usfm-h"', part[opened.end() :])
            books[opened[1]] = name[1] if name else opened[1]
        if chapter or opened:
            if lines:
                yield "\n".join([head, "", *lines])
            head, lines = f"{books.get(chapter[1], chapter[1])} {chapter[2]}" if chapter else "", []
        text = re.sub(r"(?s)<note\b.*?</note>|<title\b.*?</title>", "", part)
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())
        if text and head:
            lines.append(text)
    if lines:
        yield "\n".join([head, "", *lines])
