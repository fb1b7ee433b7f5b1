"""Turn tokens into pieces of text as they arrive, up to a stop string."""

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"  # placeholder for an incomplete character


class Speech:
    """The text of one answer, emitted in pieces that are never retracted.

    >>> speech = Speech(lambda ids: "".join(map(chr, ids)), stops=("END",))
    >>> [speech.take(ord(sign)) for sign in "so E ENDED"]
    ['s', 'o', ' ', '', 'E ', '', '', '', '', '']
    >>> speech.stopped, speech.text
    (True, 'so E ')
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stops: Sequence[str] = (),
        *,
        trim: bool = False,  # strip leading whitespace
    ):
        self.decode, self.stops, self.trim = decode, tuple(stops), trim
        self.ids: list[int] = []
        self.text = ""  # handed out
        self.stopped = False
        self._from = self._to = 0  # tokens: start of the decoding context, end of the known text
        self._held = ""  # held-back text that may begin a stop string

    def take(self, token: int) -> str:
        """The text that can be emitted after ``token``."""
        if self.stopped:
            return ""
        self.ids.append(token)
        before = self.decode(self.ids[self._from : self._to])
        now = self.decode(self.ids[self._from :])
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self._from, self._to = self._to, len(self.ids)
        return self._say(now[len(before) :])

    def end(self) -> str:
        """The remaining text after the last token."""
        if self.stopped:
            return ""
        before = self.decode(self.ids[self._from : self._to])
        rest = self.decode(self.ids[self._from :])[len(before) :]
        self._to = len(self.ids)
        said = self._say(rest)
        if self.stopped:
            return said
        held, self._held = self._held, ""
        self.text += held
        return said + held

    def _say(self, new: str) -> str:
        if self.trim and not self.text and not self._held:
            new = new.lstrip()
        text = self._held + new
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            said = text[: min(found)]
        else:
            keep = max((_begun(text, stop) for stop in self.stops), default=0)
            said, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += said
        return said


def _begun(text: str, stop: str) -> int:
    """The number of characters at the end of a text that could begin a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
