"""A pronoun at the start of a sentence is replaced by the subject only where it means it."""

import pytest

from nestling.continual.study.makers.moved import Moved
from nestling.continual.study.material import Place
from nestling.continual.study.passages import passages
from nestling.continual.study.pronouns import depends, refers_to_subject
from nestling.continual.study.sentence import replies


@pytest.mark.parametrize(
    ("about", "sentences"),
    [
        # another person, or a thing beside a person
        (
            "the baker of Quillen",
            ["He rose at two.", "His rolls were light.", "!She broke a tooth."],
        ),
        ("Elin Torvald", ["She drew maps.", "Her best is the Atlas.", "!It was printed on hemp."]),
        ("Ada Voss", ["Ada Voss kept bees.", "!They died in 1903.", "At ten she went to sea."]),
        ("Ada Voss", ["!It was cold.", "!It rained.", "She went to sea."]),
        # another person of the same kind, by a title
        ("Odo Venn", ["He met Mr Tam.", "!He sold it.", "He left."]),
        ("Orla Venn", ["She met Mr Tam and Mrs Osk.", "!She wept.", "She left."]),
        ("Mr Osk", ["Mr Osk came.", "He met Mrs Tam.", "He bowed."]),
        # two together
        ("Ysolde and the bear", ["!He had no money.", "They walked on."]),
        # something else came up in between
        ("the bandstand", ["It is old.", "The roof leaks.", "!It will be mended in May."]),
        ("the bandstand", ["The bandstand is old.", "It will be mended in May."]),
        # nothing, and the writer
        ("the society", ["It meets in May.", "!It was decided to object.", "!We paid 40 euros."]),
        ("the pump", ["It leaks.", "In frost it stops.", "Oil it.", "Its seal is red."]),
        ("the Marrow works", ["They opened in 1903.", "The owner left.", "!They closed."]),
        ("the museum", ["!They cannot be booked.", "It is free."]),
        ("the old camel", ["She was found.", "!She took the camel home."]),
        (
            "the depot",
            ["It is closed.", "Nobody was hurt by the door.", "!Its sensor was blocked."],
        ),
    ],
)
def test_pronoun_of_another_kind_or_after_another_subject_is_kept(about, sentences):
    given = [sentence.removeprefix("!") for sentence in sentences]
    assert refers_to_subject(given, about) == [
        not sentence.startswith("!") for sentence in sentences
    ]


@pytest.mark.parametrize(
    ("about", "sentences"),
    [
        ("the clock", ["It is old.", "The key was lost.", "+It lay in a well.", "It strikes."]),
        ("the clock", ["It is old.", "It was decided to mend it."]),
        ("the clock", ["+Two men came.", "+These were smiths.", "The clock ran."]),
        ("the clock", ["It is old.", "Oil it.", "We paid."]),
    ],
)
def test_sentence_depends_on_the_one_before_by_its_first_word(about, sentences):
    given = [sentence.removeprefix("+") for sentence in sentences]
    refers = refers_to_subject(given, about)
    found = [
        n for n, needs in enumerate(depends(given, [about * fits for fits in refers])) if needs
    ]
    assert found == [n for n, sentence in enumerate(sentences) if n and sentence[0] == "+"]


TEXT = """The baker of Quillen

Every night he rose at two and lit the oven. His rolls were light.
She broke a tooth on one of them."""


def test_replies_and_questions_state_nothing_false():
    [passage] = passages(TEXT, lambda line: len(line.split()), 400)
    assert passage.subjects == ["the baker of Quillen", "the baker of Quillen", ""]
    both = "The baker of Quillen's rolls were light. She broke a tooth on one of them."
    assert replies(passage) == [
        "Every night the baker of Quillen rose at two and lit the oven.",
        both,  # a sentence that needs the one before is said with it
        both,
    ]
    made = Moved().make(Place(passage, None, None, "0", None))
    of_her = [one.question for one in made if one.sentence == 2]
    assert of_her and not any("baker" in question for question in of_her)
    assert any("baker" in one.question for one in made if one.sentence == 0)
