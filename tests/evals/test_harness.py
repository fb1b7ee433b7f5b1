"""The adapter inside lm-eval; without it, an error in one line."""

import importlib.util
import math

import pytest
import torch
from readers import ids_of, llama, reader, sharpened

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals import Reader
from nestling.evals.harness import adapter, run_harness, with_rows
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
def test_without_lm_eval_error_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install 'nestling\[eval\]'"):
        run_harness(reader("hope-tiny"), [CHOOSE])


@needs_it
@pytest.mark.parametrize("carry", [False, True])
def test_choices_match_own_scores(carry):
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
def test_perplexities_match_own_evaluation():
    found = reader("hope-tiny")
    ours = lm(found, [row["question"] for row in ROWS])
    theirs = run_harness(found, [with_rows(ROLL, ROWS)])["roll"]
    for name in ("word_perplexity", "byte_perplexity"):
        assert math.log(theirs[name]) == pytest.approx(math.log(ours[name]), rel=1e-4)


@needs_it
def test_generation_matches_the_reader():
    found = reader("hope-tiny")
    texts = [found.write(ids_of(found, r["question"]), tokens=3, stops=("\n",)) for r in ROWS]
    rows = [row | {"wanted": text} for row, text in zip(ROWS, texts, strict=True)]
    task = with_rows(WRITE | {"doc_to_target": "wanted"}, rows)
    assert run_harness(found, [task])["write"]["exact_match"] == 1.0
    assert run_harness(found, [task], limit=2)["write"]["questions"] == 2


# --- what lm-eval's own model of transformers gives

GENERATE = [
    {"until": ["\n"], "max_gen_toks": 5},
    {"until": [""], "max_gen_toks": 5},
    {"until": [], "max_new_tokens": 7},
    {"until": "t", "max_tokens": 9, "do_sample": False, "temperature": 0.0},
    {"max_gen_toks": 6, "num_beams": 2},
    {"max_gen_toks": 8, "do_sample": True, "temperature": 0.7, "top_k": 5},
]
SCORED = [("Who reads", " on"), ("", " on"), ("Who reads ", "on"), ("a", "b"), ("W" * 90, "ab")]
ROLLED = ["", "Who reads on", "x" * 100 + " and so on" * 20]


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)
    ]


@pytest.fixture
def pair():
    """A model in both adapters: ours by ``batch``, and lm-eval's own."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None  # lm-eval would count the beginning
    model = sharpened(llama(positions=64))
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")

    def ours(batch):
        return adapter(Reader(model, tokenizer, name="llama", segment=7), batch=batch)

    return ours, theirs


@needs_it
@pytest.mark.parametrize("batch", [1, 3])
def test_scores_match_hflm(pair, batch):
    ours, theirs = pair[0](batch), pair[1]
    found, wanted = (x.loglikelihood(requests("loglikelihood", SCORED)) for x in (ours, theirs))
    assert [sure for _, sure in found] == [sure for _, sure in wanted]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in wanted], rel=1e-4)
    rolled = requests("loglikelihood_rolling", [(text,) for text in ROLLED])
    wanted = theirs.loglikelihood_rolling(rolled)
    assert ours.loglikelihood_rolling(rolled) == pytest.approx(wanted, rel=1e-4)


@needs_it
@pytest.mark.parametrize("batch", [1, 3])
def test_generations_match_hflm(pair, batch):
    ours, theirs = pair[0](batch), pair[1]
    asked = [("Who reads", one) for one in GENERATE] + [("Who", one) for one in GENERATE[:-1]]
    texts = []
    for one in (ours, theirs):
        torch.manual_seed(0)
        texts.append(one.generate_until(requests("generate_until", asked)))
    assert texts[0] == texts[1]
    assert texts[0] != theirs.generate_until(requests("generate_until", asked)), "none was drawn"


@needs_it
def test_chat_template_and_special_tokens_are_used(pair):
    ours = pair[0](1)
    with pytest.raises(UserError, match="no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "Who?"}])
    assert ours.tok_encode("<|endoftext|>Who?") != [0, *ours.tok_encode("Who?")]
    ours.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "<|endoftext|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    messages = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Who?"}]
    text = ours.apply_chat_template(messages)
    assert text == "<|endoftext|>Who?>" == pair[1].apply_chat_template(messages)
    assert ours.tok_encode(text) == pair[1].tok_encode(text) == [0, *ours.tok_encode("Who?>")]
    asked = requests("generate_until", [(text, GENERATE[0])])
    assert ours.generate_until(asked) == pair[1].generate_until(asked)
