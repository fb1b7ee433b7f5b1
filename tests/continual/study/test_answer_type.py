import pytest

from nestling.continual.study.answer_type import may_answer


@pytest.mark.parametrize(
    ("question", "sentence", "may"),
    [
        ("When is it shut?", "It is shut on Mondays.", True),
        ("When is it shut?", "It is shut to dogs.", False),
        ("How often is it cleaned?", "It is rinsed every fortnight.", True),
        ("In which year was it built?", "It was built in 1774.", True),
        ("In which year was it built?", "It was built by two men.", False),
        ("How old is he?", "He is old.", False),
        ("How old is she?", "She was born in 1903.", True),
        ("How old must one be?", "It is for persons over sixteen.", True),
        ("How old are the twins?", "Second place went to them.", False),
        ("How many coins were in it?", "One frosty evening he gave her a purse.", False),
        ("How many boats are there?", "One boat is left.", True),
        ("How many cards are there?", "The first card is blue.", False),
        ("What does a room cost?", "The inn has nine rooms.", False),
        ("What does a room cost?", "A room is let for 40 euros.", True),
        ("How much did she pay?", "He was paid in soap, two bars a week.", True),
        ("How much does it weigh?", "It suits cellars of 45 square metres.", False),
        ("How much does it weigh?", "It weighs 38 kilos.", True),
        ("How heavy is the lid?", "The lid, of 9 pounds, is of oak.", True),
        ("What was the name of her dog?", "She hung it on the collar of the dog.", False),
        ("What was the name of her dog?", "Her dog Bruno wore it.", True),
        ("What is the name of Ida's dog?", "Ida hung it on the collar.", False),
        ("What is the best cheese called?", "The best is the Old Miller.", True),
        ("How does it work?", "It turns.", True),
        ("How does it work?", "...", False),
    ],
)
def test_a_sentence_has_what_the_question_asks_for(question, sentence, may):
    assert may_answer(question, sentence) is may
