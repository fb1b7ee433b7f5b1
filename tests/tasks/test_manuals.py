"""The texts of ``manuals``: complete, with questions answerable from the text alone."""

import pytest

from nestling.tasks.manuals import first_mention, manuals

every_manual = pytest.mark.parametrize("manual", manuals(), ids=lambda manual: manual.name)


def test_half_are_held_out_and_four_corrected():
    tuning = [manual.tuning for manual in manuals()]
    assert len(tuning) == 10 and sum(tuning) == 5
    corrected = [manual.tuning for manual in manuals() if manual.correction]
    assert sorted(corrected) == [False, False, True, True]
    assert len({manual.kind for manual in manuals()}) >= 8


@every_manual
def test_page_of_text_with_enough_questions(manual):
    assert 150 <= len(manual.text.split()) <= 600
    assert len(manual.questions) >= 8 and len(manual.unanswerable) >= 2
    asked = [*(q.ask for q in manual.questions), *manual.unanswerable]
    assert len(set(asked)) == len(asked)


@every_manual
def test_text_holds_the_answers_and_four_choices(manual):
    for question in manual.questions:
        assert first_mention(manual.text, question.accept) is not None, question
        assert len(set(question.choices)) == 4
        assert question.right(question.accept[0])
        assert not any(question.right(other) for other in question.others), question


@every_manual
def test_questions_do_not_contain_their_answer(manual):
    for question in manual.questions:
        assert first_mention(question.ask, question.accept) is None, question


@every_manual
def test_correction_changes_its_answer(manual):
    if manual.correction is None:
        return
    first = {question.ask: question for question in manual.questions}
    assert any(not q.others for q in manual.correction.questions)  # something stays as it was
    for question in manual.correction.questions:
        old = first[question.ask]
        if question.others:
            assert first_mention(manual.correction.text, question.accept) is not None
            assert not question.right(old.accept[0])
        else:
            assert question.accept == old.accept


@every_manual
def test_replies_are_graded(manual):
    assert manual.learned_value(f"It is {manual.questions[0].accept[0]}.")
    assert not manual.learned_value("I do not know.")
