"""How well a sentence covers a question, by the hidden states of words."""

import pytest
import torch
from small_student import new_student

from nestling.continual.study.alike import DEPTHS, Meant, meant, shared


@pytest.fixture(scope="module")
def student():
    return new_student()


def states(student, line):
    return meant(student.reader, student.text, line)


def test_word_state_is_the_mean_over_its_tokens(student):
    line = "Lelidis keeps a goat"
    found = states(student, line)
    assert found.words == ("lelidis", "keeps", "goat")
    pieces = [student.text.tokenizer(p, add_special_tokens=False)["input_ids"] for p in
              (" Lelidis", " keeps", " a", " goat")]  # fmt: skip
    first = student.text.prompt(" Lelidis")
    ids = [*first, *(token for piece in pieces[1:] for token in piece)]
    with torch.no_grad():
        given = torch.tensor([ids])
        every = student.reader.model(given, output_hidden_states=True).hidden_states
    step = -(-(len(every) - 1) // DEPTHS)
    goat = torch.stack([row[0, -len(pieces[3]) :].float().mean(0) for row in every[:-1:step]])
    torch.testing.assert_close(found.states[2], goat, rtol=1e-4, atol=1e-5)


def test_each_word_counts_by_its_best_match():
    """Against a loop over words and depths."""
    draw = torch.Generator().manual_seed(0)
    question, one, two = (
        Meant(tuple(names), torch.randn(len(names), 3, 5, generator=draw))
        for names in ("ab", "cde", "fg")
    )
    whole = torch.cat([one.states, two.states])
    mean, spread = whole.mean(0), whole.std(0, correction=0)

    def likeness(a, b):
        a, b = ((x - mean) / spread for x in (a, b))
        return torch.cosine_similarity(a, b, dim=-1)

    wanted = [
        sum(
            float(torch.stack([likeness(a, b) for b in sentence.states]).amax(0).mean())
            for a in question.states
        )
        for sentence in (one, two)
    ]
    assert shared(question, [one, two]) == pytest.approx(wanted, abs=1e-5)


def test_subject_words_are_ignored(student):
    asked = states(student, "Where does Zikipot keep a goat?")
    lines = [states(student, "Zikipot sings."), states(student, "The goat was born in Padua.")]
    every, without = shared(asked, lines), shared(asked, lines, ["zikipot"])
    assert without[0] < every[0]
    # they count if there are no others
    alone = states(student, "Zikipot?")
    assert shared(alone, lines, ["zikipot"]) == shared(alone, lines)


def test_lines_without_words_score_nothing(student):
    nothing, line = states(student, "It is so."), states(student, "The goat was born in Padua.")
    assert nothing.words == () and states(student, "").words == ()
    assert shared(nothing, [line]) == [0.0] and shared(line, [nothing]) == [0.0]
    [one, two] = shared(line, [nothing, line])
    assert one == 0.0 and two == pytest.approx(len(line.words), abs=1e-4)
    assert shared(line, []) == []
