"""The adapter inside lm-eval itself; where it is not installed, a line that says so."""

import importlib.util
import math

import pytest
from readers import ids_of, reader

from nestling.core.error import UserError
from nestling.evals.harness import run_harness, with_rows
from nestling.evals.lm import lm
from nestling.evals.requests import Ask, Memory

HERE = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not HERE, reason="lm-eval is not installed (nestling[eval])")
ROWS = [
    {"question": "what reads on?", "choices": ["a memory", "b"], "answer": 0},
    {"question": "and then?", "choices": ["it writes", "rests", "c"], "answer": 2},
    {"question": "who?", "choices": ["he", "she"], "answer": 1},
]
CHOOSE = {
    "task": "choose",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROLL = {
    "task": "roll",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [
        {"metric": name, "aggregation": how, "higher_is_better": False}
        for name, how in (
            ("word_perplexity", "weighted_perplexity"),
            ("byte_perplexity", "weighted_perplexity"),
        )
    ],
}
WRITE = {
    "task": "write",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.mark.skipif(HERE, reason="lm-eval is installed")
def test_without_lm_eval_a_line_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install 'nestling\[eval\]'"):
        run_harness(reader("hope-tiny"), [CHOOSE])


@needs_it
@pytest.mark.parametrize("carry", [False, True])
def test_choices_are_those_of_our_own_scores(carry):
    found = reader("hope-tiny")
    asks = [
        Ask(tuple(ids_of(found, f"Q: {row['question']}\nA:")), tuple(found.encode(f" {choice}")))
        for row in ROWS
        for choice in row["choices"]
    ]
    scores = iter(Memory(found, carry=carry).score(asks))
    right = 0
    for row in ROWS:
        own = [next(scores)[0] for _ in row["choices"]]
        right += own.index(max(own)) == row["answer"]
    figures = run_harness(found, [with_rows(CHOOSE, ROWS)], carry=carry)["choose"]
    assert figures["acc"] == pytest.approx(right / 3) and figures["questions"] == 3


@needs_it
def test_perplexities_are_our_own():
    found = reader("hope-tiny")
    ours = lm(found, [row["question"] for row in ROWS])
    theirs = run_harness(found, [with_rows(ROLL, ROWS)])["roll"]
    for name in ("word_perplexity", "byte_perplexity"):
        assert math.log(theirs[name]) == pytest.approx(math.log(ours[name]), rel=1e-4)


@needs_it
def test_what_is_written_is_what_the_reader_writes():
    found = reader("hope-tiny")
    texts = [found.write(ids_of(found, r["question"]), tokens=3, stops=("\n",)) for r in ROWS]
    rows = [row | {"wanted": text} for row, text in zip(ROWS, texts, strict=True)]
    task = with_rows(WRITE | {"doc_to_target": "wanted"}, rows)
    assert run_harness(found, [task])["write"]["exact_match"] == 1.0
    assert run_harness(found, [task], limit=2)["write"]["questions"] == 2
