"""Texts are filled to a length in any unit."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.error import UserError
from nestling.tasks.haystack import NEAR, fitted, insert, sentences

COUNTS = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "odd": lambda text: len(text) // 3 + 5 * text.count("e"),  # uneven along the text
}


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "eee e", "word", "long " * 9, "e"]), min_size=1),
    length=st.integers(60, 900),
    kind=st.sampled_from(sorted(COUNTS)),
)
def test_haystack_fills_the_length(words, length, kind):
    count = COUNTS[kind]

    def text(parts: list[str]) -> str:
        return "begin " + " ".join(parts) + " end"

    found = fitted(text, itertools.cycle(words), length, count)
    assert count(found) <= length
    used = next(
        n
        for n in itertools.count()
        if text(list(itertools.islice(itertools.cycle(words), n))) == found
    )
    more = text(list(itertools.islice(itertools.cycle(words), used + 1)))
    assert count(found) >= NEAR * length or count(more) > length


def test_needles_longer_than_the_text_are_refused():
    with pytest.raises(UserError, match="give at least 9"):
        fitted(lambda parts: "x" * 9, itertools.repeat("y"), 8, len)
    assert fitted(" ".join, itertools.repeat("yy"), 0, len) == ""


def test_needles_keep_order_and_relative_depth():
    among = [str(i) for i in range(100)]
    found = insert(["A", "B", "C"], among, [0.9, 0.0, 0.25])
    assert [part for part in found if part in among] == among
    assert [found.index(part) for part in "ABC"] == [0, 26, 92]
    assert insert(["A"], [], [0.7]) == ["A"]


def test_sentences_end_where_a_new_one_begins():
    text = 'He said (twice!) "No."\nThen e.g. this, i.e. that... And\n\n  "Yes?" Off.'
    assert sentences(text) == [
        'He said (twice!) "No."\nThen'.replace("\n", " ") + " e.g. this, i.e. that...",
        'And "Yes?" Off.',
    ]
