"""The paper's tasks as defined in lm-eval, on rows with the layout of the hub's data sets."""

import importlib.util
from math import exp

import pytest
from readers import reader

from nestling.core.error import UserError
from nestling.evals.commonsense import PAPER, commonsense
from nestling.evals.requests import Ask, Memory

needs_it = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (nestling[eval])"
)
ARC = {
    "id": "q1",
    "question": "What is written?",
    "choices": {"text": ["memory", "light", "time"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
HELLASWAG = {
    "ind": 1,
    "activity_label": "Reading",
    "ctx_a": "A person reads a page.",
    "ctx_b": "then he",
    "ctx": "A person reads a page. then he",
    "endings": ["turns it.", "swims.", "flies home.", "melts."],
    "source_id": "made~1",
    "split": "val",
    "split_type": "indomain",
    "label": "0",
}
# by repository and configuration: the splits that are there, and a row
LAID_OUT = {
    ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1"): (
        ("train", "validation", "test"),
        {"page": " = A page = \n\n It says a few words , no more . \n"},
    ),
    ("EleutherAI/lambada_openai", "default"): (("test",), {"text": "he read and wrote and read"}),
    ("baber/piqa", None): (
        ("train", "validation", "test"),
        {"goal": "Keep a page", "sol1": "Mark it.", "sol2": "Burn it.", "label": 0},
    ),
    ("Rowan/hellaswag", None): (("train", "validation", "test"), HELLASWAG),
    ("allenai/winogrande", "winogrande_xl"): (
        ("train", "validation", "test"),
        {
            "sentence": "The pen was left by the book because _ was empty.",
            "option1": "the pen",
            "option2": "the book",
            "answer": "1",
        },
    ),
    ("allenai/ai2_arc", "ARC-Easy"): (("train", "validation", "test"), ARC),
    ("allenai/ai2_arc", "ARC-Challenge"): (("train", "validation", "test"), ARC),
    ("lighteval/siqa", None): (
        ("train", "validation"),
        {
            "context": "Kim read the note.",
            "question": "What will Kim do next?",
            "answerA": "answer it",
            "answerB": "forget",
            "answerC": "sleep",
            "label": "1",
        },
    ),
    ("aps/super_glue", "boolq"): (
        ("train", "validation", "test"),
        {"question": "is it so", "passage": "It is so.", "idx": 0, "label": 1},
    ),
}


@pytest.fixture
def fetched(monkeypatch):
    """Requests to the hub, answered by generated rows."""
    datasets = importlib.import_module("datasets")
    asked = []

    def load(path, name=None, **_):
        asked.append((path, name))
        splits, row = LAID_OUT[path, name]
        return datasets.DatasetDict({s: datasets.Dataset.from_list([row] * 2) for s in splits})

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@needs_it
def test_every_task_of_the_paper_reads_its_columns(fetched):
    found = commonsense(reader("hope-tiny"), data="hub", limit=1)
    assert set(fetched) == set(LAID_OUT)
    assert list(found["headline"]) == list(PAPER)
    for name, figures in found["tasks"].items():
        assert figures["questions"] == 1 and figures[PAPER[name]] == found["headline"][name]
    accuracies = [value for name, value in found["headline"].items() if name != "wikitext"]
    assert all(value in (0, 1) for value in accuracies)
    assert found["mean_accuracy"] == pytest.approx(sum(accuracies) / 8)
    assert found["headline"]["wikitext"] > 1


@needs_it
def test_last_word_and_choices_are_scored(fetched):
    own = reader("hope-tiny")
    found = commonsense(own, data="hub", tasks=["lambada_openai", "arc_challenge"], limit=1)
    start = tuple(own.lead)

    def score(context, *texts):
        ids = (*start, *own.encode(context))
        return [s for s, _ in Memory(own).score([Ask(ids, tuple(own.encode(t))) for t in texts])]

    (last,) = score("he read and wrote and", " read")
    assert found["tasks"]["lambada_openai"]["perplexity"] == pytest.approx(exp(-last), rel=1e-4)
    choices = ARC["choices"]["text"]
    scores = score("Question: What is written?\nAnswer:", *(f" {text}" for text in choices))
    each = [s / len(text) for s, text in zip(scores, choices, strict=True)]
    figures = found["tasks"]["arc_challenge"]
    assert figures["acc"] == (scores.index(max(scores)) == 1)
    assert figures["acc_norm"] == (each.index(max(each)) == 1)


@needs_it
def test_without_hub_its_tasks_are_one_line(monkeypatch):
    datasets = importlib.import_module("datasets")

    def load(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"no route.*--data bigbench"):
        commonsense(reader("hope-tiny"), data="hub", tasks=["piqa"])
