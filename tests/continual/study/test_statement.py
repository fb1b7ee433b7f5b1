"""English sentences as statements, and questions about them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.continual.study.examine import hold_out
from nestling.continual.study.makers import MAKERS
from nestling.continual.study.makers.moved import questions
from nestling.continual.study.material import Place, Question
from nestling.continual.study.naming import names_of, with_names, with_subject
from nestling.continual.study.passages import passages
from nestling.continual.study.related import Related
from nestling.continual.study.statement import statements
from nestling.continual.study.words import listed, telling

PIECES = listed(
    """
    If When because who which and but : ; , . ' it its They he holds hang built is must never
    Do ring the a two 9 keys Anna Brandt in at of there - glass's 12.5 \u4e00 (x) Stop
    """
)
SENTENCES = {
    "It holds 340 litres and is filled with glycol.": [
        "the pump holds 340 litres",
        "the pump is filled with glycol",
    ],
    "The first boat leaves at six, and the last one returns at ten.": [
        "the first boat leaves at six",
        "the last boat returns at ten",
    ],
    "With his wife, the painter Rosa Lind, he had three daughters, and all of them sang.": [
        "the pump had three daughters with his wife, the painter Rosa Lind",
        "all of them sang",
    ],
    "At fifteen he went to Murano and stayed for eleven years.": [
        "the pump went to Murano at fifteen",
        "the pump stayed for eleven years",
    ],
    "The spare keys hang in the lodge.": ["the spare keys hang in the lodge"],
    "Three tools are needed: a spanner and a gauge.": [
        "three tools are needed: a spanner and a gauge"
    ],
    "Bicycles are carried, but motorcycles are not allowed.": [
        "bicycles are carried",
        "motorcycles are not allowed",
    ],
    "Four cells power the station and last for nineteen months.": [
        "four cells power the station",
        "four cells last for nineteen months",
    ],
    "A batch lasts between seven and nine minutes.": [
        "a batch lasts between seven and nine minutes"
    ],
    "Once a fortnight, brush the elbow.": ["brush the elbow once a fortnight"],
    "Correction, line 4: from Monday the bus leaves at six, not at 6:10.": [
        "the bus leaves at six from Monday"
    ],
    "The gate is now kept by Berta, no longer by Wim.": ["the gate is kept by Berta"],
    "Its price has changed: it is 9 crowns instead of 17.": [
        "the pump's price has changed",
        "the pump's price is 9 crowns",
    ],
    "Instead of Wim, Berta keeps the gate.": ["Berta keeps the gate"],
    "In May 2021 the mill was sold.": ["the mill was sold in May 2021"],
    "In May and June the mill is shut.": ["the mill is shut in May and June"],
    "On Sunday mornings the mill is shut.": ["the mill is shut on Sunday mornings"],
    "By now the mill is shut.": ["by now the mill is shut"],
    "You may not open it.": ["you may not open it"],
    "Der Turm hat zwölf Glocken.": [],
    "4 euros.": [],
}


@pytest.mark.parametrize(("sentence", "wanted"), SENTENCES.items())
def test_each_verb_has_its_subject(sentence, wanted):
    assert [one.text for one in statements(sentence, "the pump")] == wanted


def test_conditions_reasons_and_requests_are_distinguished():
    [blocked, off] = statements("If the lamp blinks twice, the fan is blocked: switch it off.", "x")
    assert blocked.condition == off.condition == "the lamp blinks twice"
    assert off.request and off.verb.helper == "should one" and not blocked.request
    [run] = statements("Never run it dry, because the seal cracks.", "the pump")
    assert (run.text, run.never, run.reason) == ("Never run the pump dry", True, "the seal cracks")


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("It holds 9 litres and leaks.", "How many litres does the mill hold?", "9 litres"),
        ("Spare keys hang in the lodge.", "Where do spare keys hang?", "the lodge"),
        ("Spare keys hang in the lodge.", "What hangs in the lodge?", "Spare keys"),
        ("Wipe the glass with vinegar.", "What should one wipe the glass with?", "vinegar"),
        ("Never run it dry, because it cracks.", "Why should one never run the mill dry?", ""),
        ("If it blinks twice, the fan is blocked.", "What happens if the mill blinks twice?", ""),
        ("Ann was a baker, born in Rome in 1902.", "Where was Ann born?", "Rome"),
        ("He sold his cup, which now stands in Bern.", "Where does the mill's cup stand?", "Bern"),
        ("The first bus leaves at 5:50.", "When does the first bus leave?", "5:50"),
        ("The first bus leaves at 5:50.", "What leaves at 5:50?", "The first bus"),
        ("The shop opens at 8.30 a.m. on Sundays.", "When does the shop open?", "8.30 a.m"),
        ("The shop opens from nine to five.", "When does the shop open?", "nine to five"),
        ("The boat goes from Rova to Sund.", "What does the boat go from Rova to?", "Sund"),
        ("Boats with a red flag must wait.", "What must wait?", "Boats with a red flag"),
        ("Pumps draw water that is warm.", "What do pumps draw that is warm?", "water"),
        ("We meet from 12 May to 5 June.", "When do we meet?", "12 May to 5 June"),
        ("We meet on 12 May.", "When do we meet?", "12 May"),
        ("They rose to 9.30.", "How many did they rise to?", "9.30"),
        ("The late boat on Friday is full.", "What is full?", "The late boat on Friday"),
        ("Skis are carried by Jan.", "Who carries skis?", "Jan"),
        ("The dam was built by the monks in 1902.", "Who built the dam?", "the monks"),
        ("Berta keeps the gate.", "Who keeps the gate?", "Berta"),
        ("Seals are sold under the number K-4.", "What is the number of seals?", "K-4"),
    ],
)  # fmt: skip
def test_questions_are_english(text, question, answer):
    [whole] = passages(f"The mill\n\n{text}", len, 10_000)
    made = MAKERS.load("moved")().make(Place(whole, None, None, "0", Related(whole, None, None)))
    found = {one.question: one.answer for one in made}
    assert question in found
    assert not answer or found[question] == answer


@given(st.lists(st.sampled_from(sorted(PIECES)), max_size=14))
@settings(max_examples=150, deadline=None)
def test_random_word_orders_are_handled(pieces):
    sentence = " ".join(pieces)
    for told in statements(sentence, "the old mill"):
        assert told.text and told.verb.place < len(told.text.split())
        for question, answer in questions(told, "the old mill"):
            assert question[-1] in "?" and isinstance(answer, str)
            with_subject(question, "the old mill", random.Random(0))


@pytest.mark.parametrize("text", ["It is made by hand.", "It is paid by Friday.", "It is by Rova."])
def test_only_an_agent_acts(text):
    asked = {ask for told in statements(text, "the pot") for ask, _ in questions(told, "the pot")}
    assert asked and not any("makes" in ask or "pays" in ask for ask in asked)


def test_subjects_are_named_once():
    assert names_of("the Marlow 7 pump") == ["the Marlow 7 pump", "the Marlow 7"]
    assert names_of("Ingrid Valtersen") == ["Ingrid Valtersen"]
    draw = random.Random(0)
    for question in ("Where do the keys hang?", "Who built it?", "Tell me about seals."):
        for _ in range(4):
            said = with_subject(question, "the Marlow 7 pump", draw)
            assert said is not None and set(telling("Marlow 7")) <= set(telling(said))
            assert with_subject(said, "the Marlow 7", draw) is None
    assert with_subject("Who built it?", "", draw) is None


def test_hold_out_takes_rephrasings_and_names_the_rest():
    asks = [
        Question(f"{form} {n}?", f"answer {n}", "It is so.", "moved", n)
        for n in range(10)
        for form in ("What is the key of", "Which key has")
    ]
    found = hold_out(asks, 0.2, "seed")
    held = [one for one in found if one.held]
    assert len(held) == 4 and all(one.question.startswith("Which") for one in held)
    assert hold_out(asks[::2], 0.2, "seed") == asks[::2]
    said = with_names(found, "the mill", "seed")
    assert not any(one.held for one in said)
    assert len(said) == 2 * 16 and sum("mill" in one.question for one in said) == 16
