"""Sentences drawn from templates in the notation of hassil (Home Assistant's intents).

``(a|b)`` is a choice, ``[a]`` optional, ``(a;b)`` any order, ``<rule>`` a rule, and ``{list}`` or
``{list:slot}`` an entry of a list.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random

_TOKEN = re.compile(r"<[^<>]*>|\{[^{}]*\}|[()\[\]|;]|[^<>{}()\[\]|;]+")
_DEEPEST = 30  # nested rules, at most


class Sampler:
    """Draws sentences from templates, with the rules and lists of one language."""

    def __init__(self, rules: Mapping[str, str], lists: Mapping[str, Sequence[str]]):
        self.rules, self.lists = rules, lists

    def draw(self, template: str, rng: Random) -> str:
        """Draw a sentence from a template; whitespace is collapsed.

        >>> sampler, rng = Sampler({"the": "[the] "}, {"area": ["attic"]}), Random(1)
        >>> sorted({sampler.draw("(open|close) <the>{area:where} door", rng) for _ in range(60)})
        ['close attic door', 'close the attic door', 'open attic door', 'open the attic door']
        """
        return " ".join(self._expand(template, rng, 0).split())

    def _expand(self, template: str, rng: Random, depth: int) -> str:
        if depth > _DEEPEST:
            raise ValueError(f"rules are nested more than {_DEEPEST} deep: {template}")
        tokens = _TOKEN.findall(template)
        text, place = self._choice(tokens, 0, rng, depth)
        if place != len(tokens):
            raise ValueError(f"brackets do not match: {template}")
        return text

    def _choice(self, tokens: list[str], place: int, rng: Random, depth: int) -> tuple[str, int]:
        """Draw one of the alternatives that start at ``place``; also return where they end."""
        options, parts, order = [], [], False
        text = ""
        while place < len(tokens) and tokens[place] not in ")]":
            token = tokens[place]
            place += 1
            if token == "|":
                options.append([*parts, text])
                parts, text = [], ""
            elif token == ";":
                order = True
                parts.append(text)
                text = ""
            elif token in "([":
                inner, place = self._choice(tokens, place, rng, depth)
                if place == len(tokens) or tokens[place] != {"(": ")", "[": "]"}[token]:
                    raise ValueError(f"brackets do not match: {''.join(tokens)}")
                place += 1
                text += inner if token == "(" or rng.random() < 0.5 else ""
            elif token[0] == "<":
                text += self._expand(self.rules[token[1:-1]], rng, depth + 1)
            elif token[0] == "{":
                entry = rng.choice(self.lists[token[1:-1].partition(":")[0]])
                text += self._expand(entry, rng, depth + 1)
            else:
                text += token
        options.append([*parts, text])
        chosen = rng.choice(options)
        if order:
            rng.shuffle(chosen)
        return " ".join(chosen), place
