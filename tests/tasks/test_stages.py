"""Stage tasks: classes, languages and documents in sequence."""

import re
from random import Random

import pytest

from nestling.core.error import UserError
from nestling.data import Labelled, Records
from nestling.tasks import UNSEEN
from nestling.tasks.facts import KINDS, Documents, Far
from nestling.tasks.incremental import Incremental, Intents, made_labels
from nestling.tasks.invented import VERBS, Language
from nestling.tasks.translation import Invented, Synopses, is_held_out
from nestling.tasks.words import made_prose


def records(rows) -> Records:
    return Records(name="r", rows=rows, sha256="0" * 64, licence="none")


def test_stages_add_equal_numbers_of_new_classes():
    task = Intents(
        Incremental.Config(stages=3, classes=2, lessons=4, questions=3), material=made_labels()
    )
    seen: set[str] = set()
    for stage in task.stages(0):
        for questions, each in ((stage.learn, 4), (stage.ask, 3)):
            labels = [question.answers[0] for question in questions]
            assert len(set(labels)) == 2 and not set(labels) & seen
            assert all(labels.count(label) == each for label in labels)
        assert {q.answers[0] for q in stage.learn} == {q.answers[0] for q in stage.ask}
        assert not any(stage.name in question.prompt for question in stage.ask)
        seen |= set(labels)
    assert all(set(q.choices) == seen for s in task.stages(0) for q in s.ask)
    assert {q.prompt for s in task.stages(1) for q in s.learn} != {
        q.prompt for s in task.stages(0) for q in s.learn
    }


def test_questions_cover_classes_taught_so_far():
    task = Intents.tiny()
    stages = task.stages(0)
    for last in range(3):
        asked = task.questions_up_to(stages, last)
        assert [len(part) for part in asked] == [6] * (last + 1)
        assert all(len(q.choices) == 2 * (last + 1) for part in asked for q in part)
        assert all(q.answers[0] in q.choices for part in asked for q in part)


def test_original_splits_are_kept():
    rows = [
        Labelled(f"{label} {part} {i}", label, part)
        for label in "ab"
        for part in ("learn", "ask")
        for i in range(9)
    ]
    config = Incremental.Config(stages=2, classes=1, lessons=9, questions=9)
    for stage in Intents(config, material=records(rows)).stages(0):
        assert all(" learn " in question.prompt for question in stage.learn)
        assert all(" ask " in question.prompt for question in stage.ask)


def test_too_few_texts_are_refused():
    with pytest.raises(UserError, match="only 6 classes"):
        Intents(Incremental.Config(lessons=2, questions=1), material=made_labels()).stages(0)
    with pytest.raises(UserError, match="two classes"):
        Incremental.Config(stages=1, classes=1)
    with pytest.raises(UserError, match="first has"):
        config = Synopses.Config(lessons=1000)
        rows = [Language("first").sentence(Random(0))]
        Synopses(config, material=records(rows)).stages(0)


def test_long_texts_are_cut_at_word_boundaries():
    rows = [Labelled(f"{'word ' * 30}{i}", "a") for i in range(30)]
    rows += [Labelled(f"{i} {'word ' * 30}", "b") for i in range(30)]
    config = Incremental.Config(stages=1, classes=2, lessons=1, questions=1, longest=22)
    with pytest.raises(UserError, match="only 1 classes"):  # the texts of "a" are all equal now
        Intents(config, material=records(rows)).stages(0)


def test_test_sentences_are_not_in_training():
    for task in (Invented(), Synopses.tiny()):
        stages = task.stages(0)
        learned = {q.answers[0] for stage in stages for q in stage.learn}
        asked = {q.answers[0] for stage in stages for q in stage.ask}
        assert learned and asked and not learned & asked
        assert all(is_held_out(english) for english in asked)


def thing(pair: list[str], language: Language, english: dict[str, str]) -> tuple[str, bool]:
    """Two words of a language in English, and whether they are plural."""
    adjective, noun = pair if language.adjective_first else pair[::-1]
    plural = noun not in english
    noun = noun.removesuffix(language.plural) if plural else noun
    return f"the {english[adjective]} {english[noun]}{'s' * plural}", plural


def test_an_invented_language_can_be_read_with_its_glossary():
    """A reader with the word list and word order of the language is always right."""
    task = Invented()
    for stage in task.stages(UNSEEN):
        language = Language(stage.name)
        english = {word: meaning for meaning, word in language.lexicon.items()}
        told = {
            q.prompt.split()[1]: q.answers[0] for q in stage.learn if len(q.prompt.split()) == 3
        }
        assert told == english and len(set(english)) == len(english) == 44
        for question in (*stage.learn[len(told) :], *stage.ask):
            words = (
                question.prompt.split("\n")[0].removeprefix("Text: ").lower().rstrip(".").split()
            )
            past = language.past in words
            words = [word for word in words if word != language.past]
            size = {"subject": 2, "verb": 1, "object": 2}
            parts, place = {}, 0
            for part in language.order:
                parts[part] = words[place : place + size[part]]
                place += size[part]

            subject, many = thing(parts["subject"], language, english)
            other, _ = thing(parts["object"], language, english)
            verb = english[parts["verb"][0]]
            if past:
                verb = VERBS[verb]
            elif many:
                verb = {"carries": "carry", "washes": "wash"}.get(verb, verb[:-1])
            assert f"{subject} {verb} {other}.".capitalize() == question.answers[0]


def longest_common(one: list[str], other: list[str]) -> int:
    """The number of words in the longest common run."""
    joined = " " + " ".join(other) + " "
    runs = (one[i:j] for i in range(len(one)) for j in range(i + 1, len(one) + 1))
    return max((len(run) for run in runs if " " + " ".join(run) + " " in joined), default=0)


def test_questions_about_facts_are_no_part_of_the_document():
    """Question and document share a name and at most one word next to it."""
    for stage in Documents().stages(3):
        (lesson,) = stage.learn
        text = lesson.as_lesson
        assert len(stage.ask) == len(KINDS)
        for question in stage.ask:
            asked = question.prompt.removeprefix("Question: ").partition("\n")[0]
            assert asked not in text and question.answers[0] in text
            assert len(set(question.choices)) == 4 and question.answers[0] in question.choices
            words = [re.findall(r"\w+", part.lower()) for part in (asked, text)]
            assert longest_common(*words) <= 3, (asked, text)
    wordings = {(told, asked) for kind in KINDS for told in kind.told for asked in kind.asked}
    assert all(told.count("{value}") == 1 and "{value}" not in asked for told, asked in wordings)


def test_names_are_unique():
    stages = [stage for seed in range(4) for stage in Documents().stages(seed)]
    assert len({stage.learn[0].as_lesson.partition("\n")[0] for stage in stages}) == 100


def test_distance_is_as_requested():
    for distance in (0, 1000, 4096):
        task = Far(Far.Config(distance=distance), material=made_prose())
        for question in task.examples(0, 10):
            head, *prose, asked = question.prompt.split("\n\n")
            assert head.startswith("About") and asked.startswith("Question: ")
            size = len(prose[0]) if prose else 0
            assert distance - 80 < size <= distance


def test_chrf_is_pooled_with_mean_reported():
    metrics = pytest.importorskip("sacrebleu.metrics")
    task = Invented.tiny()
    asked = task.stages(0)[0].ask
    right = [question.answers[0] for question in asked]
    # one very long output dominates the pooled n-grams, but not the mean
    said = [
        text + " on and on" * 50 * (number == 0) + "\nrest" for number, text in enumerate(right)
    ]
    texts = [text.partition("\n")[0] for text in said]
    whole = metrics.CHRF().corpus_score(texts, [right]).score / 100
    each = [
        metrics.CHRF().sentence_score(*pair).score / 100
        for pair in zip(texts, [[r] for r in right], strict=True)
    ]
    assert task.score(said, asked) == pytest.approx(whole)
    assert task.beside(said, asked) == {"mean": pytest.approx(sum(each) / len(each))}
    assert abs(whole - sum(each) / len(each)) > 0.01
