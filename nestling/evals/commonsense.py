"""Commonsense questions: the paper's eight tasks through lm-eval, or BIG-bench offline."""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nestling.core.error import UserError, did_you_mean
from nestling.data.bigbench import TASKS as OFFLINE
from nestling.data.bigbench import Choice, read
from nestling.evals.harness import run_harness, version, with_rows
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Ask, Memory

HUB = ("huggingface.co", 443)
# the tasks of the paper's Table 2 by their names in lm-eval, with the metric of the column
PAPER = {
    "wikitext": "word_perplexity",
    "lambada_openai": "acc",
    "piqa": "acc",
    "hellaswag": "acc_norm",
    "winogrande": "acc",
    "arc_easy": "acc",
    "arc_challenge": "acc_norm",
    "social_iqa": "acc",
    "boolq": "acc",
}
SOURCES = ("auto", "hub", "bigbench")


def hub_is_reachable(patience: float = 3.0) -> bool:
    """Whether a connection to the hub opens within ``patience`` seconds."""
    try:
        with socket.create_connection(HUB, timeout=patience):
            return True
    except OSError:
        return False


def commonsense(
    reader: Reader,
    *,
    data: str = "auto",
    tasks: Sequence[str] = (),
    limit: int | None = None,
    carry: bool = False,
    batch: int = 1,
    chat: bool = False,
    say: Callable[[str], None] = lambda text: None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """The figures of each task, and the mean accuracy.

    ``data`` is "hub" (the paper's tasks, as defined in lm-eval), "bigbench" (multiple-choice tasks
    of BIG-bench, in the format "Q: ... A:" of lm-eval's social_iqa, offline, with ``chance`` among
    the figures) or "auto" (the hub if it can be reached). ``tasks`` selects some of them, and
    ``limit`` the first questions of each. ``batch`` requests are read side by side; ``chat`` uses
    the tokenizer's chat template and needs lm-eval. BIG-bench works without lm-eval too;
    ``harness`` in the result is the version of lm-eval, or None. ``say`` is called with what is
    being measured, ``tell`` with the number of answers so far.
    """
    if data not in SOURCES:
        raise UserError(f"unknown data {data!r}: {did_you_mean(data, SOURCES)}")
    if data == "auto":
        data = "hub" if hub_is_reachable() else "bigbench"
        say(f"data: {data}" + (" (the hub cannot be reached)" if data == "bigbench" else ""))
    known = PAPER if data == "hub" else OFFLINE
    for name in tasks:
        if name not in known:
            raise UserError(f"unknown task {name!r} of {data}: {did_you_mean(name, known)}")
    chosen = list(tasks or known)
    if data == "hub":
        say(", ".join(chosen))
        how: dict[str, Any] = {"carry": carry, "batch": batch, "chat": chat}
        found = run_harness(reader, chosen, limit=limit, tell=tell, **how)
    else:
        rows = {name: read(name)[:limit] for name in chosen}
        say(", ".join(chosen))
        found = _offline(reader, rows, tell, carry=carry, batch=batch, chat=chat)
    heads = {name: found[name][PAPER[name] if data == "hub" else "acc"] for name in chosen}
    accuracies = [value for name, value in heads.items() if name != "wikitext"]
    mean = sum(accuracies) / len(accuracies) if accuracies else None
    return {
        "data": data,
        "harness": version(),
        "tasks": found,
        "headline": heads,
        "mean_accuracy": mean,
    }


def _offline(
    reader: Reader,
    rows: Mapping[str, Sequence[Choice]],
    tell: Tell,
    *,
    carry: bool,
    batch: int,
    chat: bool,
) -> dict[str, dict[str, Any]]:
    """The figures of BIG-bench tasks, through lm-eval if it is installed."""
    if version() is None:
        if chat:
            raise UserError("chat needs lm-eval: pip install 'nestling[eval]'")
        memory = Memory(reader, carry=carry, batch=batch)
        return {name: choose(reader, asked, memory, tell) for name, asked in rows.items()}
    tasks = [offline(name, asked) for name, asked in rows.items()]
    found = run_harness(reader, tasks, carry=carry, batch=batch, chat=chat, tell=tell)
    return {name: found[name] | {"chance": chance(asked)} for name, asked in rows.items()}


def choose(
    reader: Reader,
    questions: Sequence[Choice],
    memory: Memory | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Score BIG-bench questions without lm-eval, in the same way.

    ``acc`` takes the choice with the highest log-probability, ``acc_norm`` the one with the highest
    per character. Answers come from ``memory``; without one, every question is read afresh.
    """
    memory = memory or Memory(reader)
    right = {"acc": 0, "acc_norm": 0}
    for done, item in enumerate(questions, 1):
        context = (*reader.lead, *reader.encode(f"Q: {item.question}\nA:"))
        asks = [Ask(context, tuple(reader.encode(f" {text}"))) for text in item.choices]
        scores = [score for score, _ in memory.score(asks)]
        tell(done, len(questions))
        each = [x / len(text) for x, text in zip(scores, item.choices, strict=True)]
        right["acc"] += scores.index(max(scores)) == item.answer
        right["acc_norm"] += each.index(max(each)) == item.answer
    shares = {name: count / len(questions) for name, count in right.items()}
    return shares | {"questions": len(questions), "chance": chance(questions)}


def offline(name: str, questions: Sequence[Choice]) -> dict[str, Any]:
    """The lm-eval configuration of a BIG-bench task."""
    rows = [
        {"question": item.question, "choices": list(item.choices), "answer": item.answer}
        for item in questions
    ]
    metrics = [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True}
        for metric in ("acc", "acc_norm")
    ]
    config = {
        "task": name,
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": metrics,
        "metadata": {"version": 1},
    }
    return with_rows(config, rows)


def chance(questions: Sequence[Choice]) -> float:
    """The expected accuracy of guessing."""
    return sum(1 / len(item.choices) for item in questions) / len(questions)
