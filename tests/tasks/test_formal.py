"""Labels of formal languages agree with independent recognisers."""

import itertools
import re

import pytest

from nestling.core.error import UserError
from nestling.tasks import IGNORED, TASKS, UNSEEN
from nestling.tasks.formal import AnBn, AnBnCn, Parity, Shuffle2

ALL = [name for name in TASKS.names() if name.startswith("formal-")]
MOST = 24  # symbols of the longest word in the tiny form


def words(task, seed: int, count: int = 60) -> list[tuple[str, list[int]]]:
    """Words and classes of the rows."""
    found = []
    for row, label in zip(*(part.tolist() for part in task.examples(seed, count)), strict=True):
        size = sum(token < len(task.symbols) for token in row)
        assert row[size:] == [len(task.symbols)] * (len(row) - size)
        assert label[size:] == [IGNORED] * (len(row) - size)
        word = "".join(task.symbols[token] for token in row[:size])
        found.append((word, [one - task.first_class for one in label[:size]]))
    return found


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("formal-parity", r"0*(10*10*)*"),
        ("formal-aa-star", r"(aa)*"),
        ("formal-abab-star", r"(abab)*"),
    ],
)
def test_regular_languages_match_their_expression(name, pattern):
    task = TASKS.load(name).tiny()
    for seed in (0, UNSEEN):
        for word, classes in words(task, seed):
            assert re.fullmatch(pattern, word)
            prefixes = itertools.accumulate(word)
            assert classes == [bool(re.fullmatch(pattern, prefix)) for prefix in prefixes]


@pytest.mark.parametrize("kind", [AnBn, AnBnCn])
def test_counter_classes_are_allowed_next_symbols(kind):
    """By enumerating all words up to twice the tested length."""
    task = kind.tiny()
    language = ["".join(s * n for s in task.symbols) for n in range(1, MOST)]
    seen: dict[frozenset[str], set[int]] = {}
    for seed in (0, UNSEEN):
        for word, classes in words(task, seed):
            assert word in language
            for end in range(1, len(word) + 1):
                follow = {w[end : end + 1] or "end" for w in language if w.startswith(word[:end])}
                seen.setdefault(frozenset(follow), set()).add(classes[end - 1])
    expected = [{"a", "b"}, {"b"}, {"end"}] if kind is AnBn else [{"a", "b"}, {"b"}, {"c"}, {"end"}]
    assert seen == {frozenset(follow): {index} for index, follow in enumerate(expected)}


def stripped(word: str, brackets: str) -> str:
    """The unmatched brackets of one kind."""
    word = "".join(symbol for symbol in word if symbol in brackets)
    while brackets in word:
        word = word.replace(brackets, "")
    return word


def test_shuffle_2_interleaves_two_balanced_words():
    task = Shuffle2.tiny()
    crossing = 0
    for seed in (0, UNSEEN):
        for word, classes in words(task, seed):
            assert stripped(word, "()") == stripped(word, "[]") == ""
            crossing += stripped(word.replace("[]", ""), "()") != "" or "([)" in word
            for end in range(1, len(word) + 1):
                # a bracket may be closed if doing so leaves no closing bracket without its match
                may = [")" not in stripped(word[:end] + ")", "()")]
                may += ["]" not in stripped(word[:end] + "]", "[]")]
                assert classes[end - 1] == may[0] + 2 * may[1]
    assert crossing, "words do cross"


@pytest.mark.parametrize("name", ALL)
def test_bin_1_is_longer_than_training(name):
    kind = TASKS.load(name)
    trained = {len(word) for word, _ in words(kind(), 0, 300)}
    longer = {len(word) for word, _ in words(kind(), UNSEEN, 300)}
    assert max(trained) <= 50 < min(longer) and max(longer) <= 100
    assert max(trained) >= 48 and max(longer) >= 99


@pytest.mark.parametrize("kind", [Parity, Shuffle2])
def test_bin_0_holds_words_out(kind):
    task = kind(kind.Config(longest=12, beyond=24, bin=0))
    trained = {word for word, _ in words(task, 0, 3000)}
    measured = {word for word, _ in words(task, UNSEEN, 1000)}
    assert not trained & measured
    assert max(map(len, measured)) == 12 == max(map(len, trained))


def test_balanced_words_are_uniform():
    from random import Random

    from nestling.tasks.formal import balanced

    rng, counts = Random(0), {}
    for _ in range(2000):
        word = balanced(rng, 3, "()")
        counts[word] = counts.get(word, 0) + 1
    assert len(counts) == 5
    assert all(abs(n - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5 for n in counts.values())


def test_invalid_lengths_are_refused():
    for values in ({"bin": 2}, {"longest": 4}, {"longest": 50, "beyond": 50}):
        with pytest.raises(UserError):
            Parity.Config(**values)


def test_training_matches_the_published_table():
    """Adam (0.9, 0.995), at most 300 epochs, stopping once both bins are right; the best epoch is
    kept.
    """
    for name in (n for n in TASKS.names() if n.startswith("formal-")):
        protocol = TASKS.load(name).protocol
        assert protocol.betas == (0.9, 0.995) and protocol.epochs == 300
        assert protocol.measured == {"bin": (0, 1)} and protocol.enough == 1.0
        assert protocol.keep == "best" and protocol.weight_decays == (0.0,)
        assert TASKS.load(name)().config.train_examples == 10_000
