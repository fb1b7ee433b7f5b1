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
        ("What does a visit cost?", "Visits: a first one, half an hour: 54", True),
        ("What does a visit cost?", "Visits by day: 95, by night: 160.", True),
        ("What does a visit cost?", "The practice was built in 1774.", False),
        ("On which day is the race?", "The race is on 16 May.", True),
        ("On which day is the race?", "It has been held for 16 years.", False),
        ("On which day of the week do they meet?", "They meet on 16 May.", False),
        ("On which day of the week do they meet?", "They meet every Sunday.", True),
        ("In which month is it shut?", "It is shut in August.", True),
        ("In which month is it shut?", "It is shut for 3 weeks.", False),
        ("What colour is the shoe?", "She wore one blue shoe.", True),
        ("What colour is the shoe?", "She wore one shoe.", False),
        ("What is the phone number?", "Call Ada on 5550 697.", True),
        ("What is the phone number?", "Call Ada on the 17th.", False),
        ("For how many minutes does it bake?", "Bake it for half an hour, with 2 eggs.", True),
        ("For how many minutes does it bake?", "It takes 3 eggs.", False),
        ("How many watts does it use?", "It is ready after 26 minutes.", False),
        ("How many kilos are needed?", "Take 40 kg.", True),
        ("How many kites are there?", "There are 400 kites.", True),
        ("How does it work?", "It turns.", True),
        ("How does it work?", "...", False),
    ],
)
def test_a_sentence_has_what_the_question_asks_for(question, sentence, may):
    assert may_answer(question, sentence) is may
