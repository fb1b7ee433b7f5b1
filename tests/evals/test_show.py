"""Results side by side on a page."""

import pytest
from browser import open_page

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.evals.show import by_file_name, sections

SCORE = {"score": 0.5, "low_95": 0.2, "high_95": 0.8, "chance": 0.1, "count": 9}
LM = {
    "tokens": 9, "loss": 2.0, "perplexity": 7.4, "word_perplexity": 30.0, "byte_perplexity": 2.0,
    "bits_per_byte": 1.0,
    "by_position": [
        {"start": 0, "end": 16, "loss": 3.0, "tokens": 4},
        {"start": 16, "end": 32, "loss": 1.0, "tokens": 5},
    ],
}  # fmt: skip
STAGES = SCORE | {"table": [[1.0], [0.5, 0.75]], "stages": ["a", "b"], "forgotten": 0.5}
TASKS = {
    "tasks": {
        "niah-1": {"parts": {"length 64": SCORE, "length 128": SCORE | {"score": 0.25}}},
        "incremental-x": STAGES,
        "recall": {"score": None, "note": "too many tokens"},
    }
}


def of(name, metrics):
    return Result(name=name, config={}, metrics=metrics)


@pytest.fixture
def paths(tmp_path):
    made = {
        "a/lm": of("eval lm", LM),
        "b/lm": of("eval lm", LM),
        "tasks": of("eval", TASKS),
        "cs": of("eval commonsense", {"tasks": {"piqa": {"acc": 0.5, "questions": 4}}}),
    }
    return [result.write(tmp_path / f"{name}.json") for name, result in made.items()]


def test_every_kind_is_shown_with_its_metrics(paths, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", "--evals", *map(str, paths), "--page", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "recall" in text and "tasks: too many tokens." in text and "a/lm.json" in text
    shown = open_page(page, tmp_path)
    assert (shown.figures, shown.tables, shown.complaints) == (3, 5, [])
    assert shown.width <= 390


def test_models_share_one_table(paths):
    found = sections(by_file_name(paths[:2]))
    assert [row[2:4] for row in found[0].tables[0].rows] == [(9, 2.0), (9, 2.0)]


def test_other_results_are_a_user_error(tmp_path):
    with pytest.raises(UserError, match="not of nestling eval"):
        sections({"x": of("train", {})})
