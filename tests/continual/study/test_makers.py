"""Every maker of study material, and the choice of questions."""

import copy

import pytest
from small_student import new_student

from nestling.continual.study.form import forms
from nestling.continual.study.judge import chosen, missing, told_apart
from nestling.continual.study.lessons import learned
from nestling.continual.study.makers import MAKERS, natural
from nestling.continual.study.makers.moved import Moved
from nestling.continual.study.material import Place, Question
from nestling.continual.study.near import near_ones, other_name
from nestling.continual.study.passages import Passage, passages
from nestling.continual.study.plan import Plan
from nestling.continual.study.related import KINDS, Related
from nestling.continual.study.sentence import alone
from nestling.continual.study.verbs import forms_of
from nestling.continual.study.words import telling

PUMP = """Kestrel 4 pump, manual

It must be serviced every nine weeks by a fitter. The pump holds 12 litres of oil, and its casing
is made of bronze. Never run it dry, because the seal cracks. Spare keys hang in the lodge. Two
tools are needed: a hook spanner and a mallet. It was built by Olga Brandt in Split in 1987."""
TEXTS = {
    "english": PUMP,
    "german": "Der Turm\n\nDer Turm hat 12 Glocken. Niemand darf ihn nachts besteigen.",
    "numbers": "1 2 3\n4 5 6\n7 8 9",
    "word": "pump",
    "list": "Prices\n\nTube: 4 euros. Chain: 9 euros.",
    "repeated": "It leaks. It leaks. It leaks.",
    "signs": "?? !! .. a",
}


class Known(Related):
    """Related words without a model."""

    def _said(self, examples, wanted):
        said = " a substance that is rare" if examples == KINDS else " stuff, goods"
        return [dict.fromkeys(parts, said) for parts in wanted]


def place(text, seed="0"):
    [first, *_] = passages(text, lambda line: len(line), 10_000)
    return Place(first, None, None, seed, Known(first, None, None))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", MAKERS.names())
def test_questions_use_words_of_the_passage(name, text):
    given = place(text)
    for one in MAKERS.load(name)().make(given):
        sentence = given.passage.sentences[one.sentence]
        assert one.maker == name
        assert one.question.strip() and one.reply.strip()
        assert not one.answer or one.answer in sentence
        said = telling(
            " ".join(alone(line, given.passage.about) for line in given.passage.sentences)
        )
        replied = {word.removesuffix("'s") for word in telling(one.reply)}
        assert replied <= {*said, *telling(given.passage.about), "one"}
        assert not one.held


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", MAKERS.names())
def test_makers_are_deterministic(name, text):
    maker = MAKERS.load(name)()
    assert maker.make(place(text)) == maker.make(place(text))


def test_moved_questions_do_not_contain_their_answer():
    made = MAKERS.load("moved")().make(place(PUMP))
    assert len(made) > 20
    assert all(one.answer.lower() not in one.question.lower() for one in made if one.answer)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How often must the Kestrel 4 pump be serviced?", "nine weeks"),
        ("What is the Kestrel 4 pump's casing made of?", "bronze"),
        ("Who was the Kestrel 4 pump built by?", "Olga Brandt"),
        ("How many tools are needed?", "Two tools"),
    ],
)
def test_moved_questions_are_english(question, answer):
    made = MAKERS.load("moved")().make(place(PUMP))
    assert (question, answer) in [(one.question, one.answer) for one in made]


def test_auxiliary_verbs_are_recognised():
    text = "Plum bread\n\nOld plums do not colour the dough of the bread. The bakers do so."
    made = MAKERS.load("moved")().make(place(text))
    assert "What does not colour the dough of the bread?" in [one.question for one in made]


def test_prohibitions_are_asked_for():
    made = MAKERS.load("about")().make(place(PUMP))
    denied = [one for one in made if "never" in one.question or "not allowed" in one.question]
    assert [one.reply for one in denied] == ["Never run it dry, because the seal cracks."]


def test_keyed_questions_use_words_or_synonyms_of_their_sentence():
    given = place(PUMP)
    made = MAKERS.load("keyed")().make(given)
    assert {one.sentence for one in made} == set(range(len(given.passage.sentences)))
    there = set()
    for one in made:
        sentence = telling(given.passage.sentences[one.sentence])
        rest = set(telling(one.question)) - set(telling(given.passage.about))
        kinds = {"many", "much", "often", "long", "year", "day", "number", *telling(one.answer)}
        others = {form for word in sentence for form in forms_of(word)} | {"stuff", "goods"}
        assert rest - kinds <= {*sentence, *others, "substance"}
        assert one.answer not in one.question and not natural(one)
        there |= rest
    assert {"stuff", "goods", "substance", "servicing"} & there >= {"stuff", "substance"}
    assert any(form in there for form in forms_of("serviced") + forms_of("hang"))


def test_kind_questions_are_english():
    made = {one.question: one.answer for one in MAKERS.load("kinds")().make(place(PUMP))}
    assert made["Which substance is the Kestrel 4 pump's casing made of?"] == "bronze"
    assert made["In which substance do spare keys hang?"] == "the lodge"
    assert all("substance" in question for question in made)


def test_no_related_words_without_a_model():
    [first] = passages(PUMP, len, 10_000)
    related = Related(first, None, None)
    assert related.kinds == related.others == [{} for _ in first.sentences]


def ask(question, answer, sentence=0, sure=0.0):
    return Question(question, answer, answer, "moved", sentence, sure)


def test_best_question_per_answer_is_chosen():
    asks = [ask("a?", "x", sure=-1.0), ask("b?", "x", sure=-0.5), ask("c?", "y", sure=-9.0)]
    assert [one.question for one in chosen(asks, ["x y"], each=1, most=3)] == ["b?"]
    names = [*asks, ask("d?", "7", sure=-9.0)]
    assert [one.question for one in chosen(names, ["x y 7"], each=1, most=3)] == ["b?", "d?"]


def test_missing_lists_words_without_a_question():
    sentence = "The pump holds 12 litres."
    asked = ask("?", "12 litres")
    assert missing([sentence], [asked]) == ["pump", "holds"]
    assert missing([sentence], [asked._replace(reply=sentence)]) == ["pump", "holds"]
    assert missing([sentence], [asked._replace(held=True)]) == ["pump", "holds", "12", "litres"]


def test_lessons_use_one_form_and_cues_start_replies():
    learner = new_student()
    given = place("Mill, notes\n\nThe door is oiled by Olga. The door is red.")
    reply = "The door is oiled by Olga."
    asked = [
        Question("Who oils it?", "Olga", reply, "moved", 0),
        Question("Tell me more.", "", reply, "about", 0),
        Question("Who door?", "Olga", reply, "keyed", 0),
    ]
    told = copy.copy(learner.text)
    told._tokenizer = copy.deepcopy(learner.text.tokenizer)
    told.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    plain, chat = forms(told)
    assert chat is not None
    for each, wanted in (((plain, None), ["Olga", reply]), ((plain, chat), [reply, reply])):
        (said, *_), ([key], *_), (short, *_), _ = learned(Plan(), given.passage, asked, each)
        found = [told.decode(draft.tokens).strip() for draft in (*short, *said)]
        assert found == wanted
        begin = told.decode(key.tokens).strip()
        assert reply.startswith(begin) and "The door is" < begin < reply  # which of the two is used
        heads = [told.decode(draft.ids) for draft in (*short, *said)]
        assert all(("Question:" in head) == (each[1] is None) for head in heads)


def test_near_questions_use_other_names():
    asked = ["How often must the Kestrel 4 pump be serviced?", "Who built it?"]
    made = near_ones(asked, "the Kestrel 4 pump", 10, "seed")
    assert len(made) == 10 == len(set(made))
    assert not any("Kestrel 4" in one for one in made)
    assert made == near_ones(asked, "the Kestrel 4 pump", 10, "seed")


@pytest.mark.parametrize("word", ["1987", "K-4471", "Olga", "NASA", "7"])
def test_other_name_differs(word):
    import random

    assert all(other_name(word, random.Random(i)) != word for i in range(5))


def test_questions_that_several_replies_answer_are_dropped():
    def ask(question, answer, reply):
        return Question(question, answer, reply, "moved", 0)

    salt, egg, oil = "You need salt.", "You need an egg.", "You need oil."
    made = [
        ask("What do you need?", "salt", salt),
        ask("what do you need?", "an egg", egg),
        ask("What do you need?", "oil", oil),
        ask("What do you need of salt?", "salt", salt),
        ask("How many eggs?", "an egg", egg),
        ask("What must never be done?", "", salt),
        ask("What must never be done?", "", egg),
    ]
    assert told_apart(made) == made[2:6]  # nothing else asks for the oil


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("You need 260 g of raw cane sugar", "How many g do you need of raw cane sugar?"),
        ("You turn the ivory dial to the left.", "What do you turn to the left?"),
        ("I bought a hat in Rome.", "Where did I buy a hat?"),
        ("These hold two litres.", "How many litres do these hold?"),
    ],
)
def test_pronouns_take_verbs_in_the_plural(sentence, question):
    passage = Passage("Soup", "the soup", (sentence,), 0)
    made = Moved().make(Place(passage, None, None, "0", None))
    assert question in {one.question for one in made}
