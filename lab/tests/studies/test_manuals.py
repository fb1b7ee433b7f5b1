"""The study of longer texts: what is asked follows from them, and the page counts the replies."""

import pytest

from nestling.tasks.manuals import first_mention
from nestling_lab.studies.continual.manual_texts import manual_texts

# accepted values that are others' spelling of a value in the text
SPELT = {
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "7": "seven",
    "10": "ten",
    "12": "twelve",
    "13": "thirteen",
    "5 weeks": "five weeks",
    "8:30": "half past eight",
    "9:15": "quarter past nine",
    "15 minutes": "quarter of an hour",
    "two weeks": "fortnight",
    "whiskey": "whisky",
    "moving": "moved",
}
MANUALS = manual_texts()
every_manual = pytest.mark.parametrize("one", MANUALS.values(), ids=lambda one: one.name)


def holds(text, value):
    return first_mention(text, [value, SPELT.get(value, value)]) is not None


def test_half_are_set_aside_and_half_of_each_half_are_corrected():
    assert len(MANUALS) == len({one.kind for one in MANUALS.values()}) == 8
    for tuning in (False, True):
        half = [one for one in MANUALS.values() if one.tuning == tuning]
        assert len(half) == 4 and sum(bool(one.correction) for one in half) == 2


@every_manual
def test_a_text_has_its_length_and_its_number_of_questions(one):
    assert 150 <= len(one.text.split()) <= 330
    assert len(one.questions) >= 8 and len(one.unanswerable) == 2
    counts = (3, 2) if one.correction else (0, 0)
    assert (len(one.changed), len(one.unchanged)) == counts
    assert not one.correction or 40 <= len(one.correction.split()) <= 80
    asked = [each.ask for each in one.asked]
    assert len(set(asked)) == len(asked)


@every_manual
def test_the_text_holds_every_value_and_no_question_does(one):
    for each in one.questions + one.unchanged:
        assert all(holds(one.text, value) for value in each.accept), each
        assert all(holds(one.text, value) for value in each.others), each
    for each in one.unanswerable:
        assert each.others and all(holds(one.text, value) for value in each.others), each
    for each in one.changed:
        assert all(holds(one.correction, value) for value in each.accept), each
        assert all(holds(one.text, value) for value in each.others), each
        assert not set(each.accept) & set(each.others), each
    for each in one.asked:
        given = [value for value in each.accept + each.others if holds(each.ask, value)]
        assert not given or not each.accept and set(given) <= {"214"}, each


@every_manual
def test_what_is_right_passes_and_what_is_wrong_does_not(one):
    right = [each.accept[0] if each.accept else "That is not said." for each in one.asked]
    wrong = [each.others[0] if each.others else "No." for each in one.asked]
    assert all(all(passed) for passed in one.scores(right).values())
    assert not any(any(passed) for passed in one.scores(wrong).values())
    assert one.known_before(wrong) == [True] * len(one.changed)
    assert not any(one.known_before(right))
    for each in one.unanswerable:
        assert not set(each.others) & set(each.accept)


@every_manual
def test_a_correction_touches_no_other_question(one):
    """Where an old value is right elsewhere, too, it is another fact of the text."""
    for each in one.questions + one.unchanged:
        assert each.ask not in {changed.ask for changed in one.changed}
        for changed in one.changed:
            assert not set(each.accept) & set(changed.others), each
