"""Letters: what is greeting and close, who writes, and what is no letter."""

import pytest

from nestling.continual.study.letter import Letter, letter
from nestling.continual.study.passages import passages

TOLD = ["The harp is mended.", "I shall bring it on Monday."]


@pytest.mark.parametrize(
    ("greeting", "close", "about"),
    [
        ("Dear Ida,", ["With love and thanks,", "your Aunt Rosa"], "Aunt Rosa to Ida"),
        ("Dear Mr Holm,", ["Yours sincerely,", "Rosa Vent"], "Rosa Vent to Mr Holm"),
        ("Hi all,", ["Best wishes, Rosa"], "Rosa"),
        ("Hello Ida!", ["Thank you,", "Rosa Vent"], "Rosa Vent to Ida"),
    ],
)
def test_greeting_and_close_say_who_writes_to_whom(greeting, close, about):
    assert letter([greeting, *TOLD, *close]) == Letter(TOLD, f"the letter from {about}")


@pytest.mark.parametrize("after", ["PS: The key is under the mat.", "PS the key is here", "Pier 5"])
def test_what_is_below_the_name_belongs_to_the_body(after):
    found = letter(["Dear Ida,", *TOLD, "Love,", "Rosa", after])
    assert found == Letter([*TOLD, after], "the letter from Rosa to Ida")


def test_lines_of_the_body_that_begin_like_a_close_stay():
    body = [
        "Your Monday class starts at nine",
        "Your Tuesday class starts at ten",
        "Thank you for the cake, Ida!",
        "Good boots are needed",
        "The pool is shut.",
    ]
    found = letter(["Dear all,", *body, "Regards,", "Jane Hill"])
    assert found == Letter(body, "the letter from Jane Hill")


def test_greeting_without_a_comma_is_no_title():
    [one] = passages("\n\n".join(["Dear Ida", " ".join(TOLD), "Love,\nRosa"]), len, 400)
    assert (one.title, one.about) == ("", "the letter from Rosa to Ida")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Dear Ida,", "Love,", "Rosa"][:2],
        ["The harp of Ida", *TOLD, "Love,", "Rosa"],  # no greeting
        ["Dear Ida,", *TOLD],  # no close
        ["Dear Ida,", *TOLD, "With love,"],  # no name
        ["Dear me, what a mess the workshop of Rosa Vent is today,", *TOLD, "Love,", "Rosa"],
    ],
)
def test_other_texts_are_no_letters(lines):
    assert letter(lines) is None


def test_letter_is_studied_without_its_greeting_and_close():
    text = "\n\n".join(["Dear Ida,", " ".join(TOLD), "Love,\nRosa"])
    [one] = passages(text, len, 400)
    assert one.sentences == tuple(TOLD)
    assert (one.title, one.about) == ("", "the letter from Rosa to Ida")
    assert one.subjects == ["", ""]
