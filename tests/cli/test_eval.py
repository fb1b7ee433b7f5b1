"""nestling eval: what is printed and written."""

import json

import pytest

from nestling.cli.main import main


def test_lm_prints_and_writes_metrics(trained, tmp_path, capsys):
    text, record = tmp_path / "text.txt", tmp_path / "lm.json"
    text.write_text("a few words that are read by a model " * 3, encoding="utf-8")
    arguments = ["--model", str(trained), "--text", str(text), "--json", str(record)]
    assert main(["eval", "lm", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "byte_perplexity" in printed and "16 to 32" in printed
    result = json.loads(record.read_text())
    assert result["metrics"]["bytes"] == result["metrics"]["tokens"] == 111
    assert result["config"]["kind"] == "hope" and result["config"]["architecture"]["pattern"]


def test_lm_reads_held_out_documents_of_a_corpus(trained, tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(25):
        (folder / f"{i}.txt").write_text(f"text number {i} says {i * i * 7919} and no more of it")
    arguments = ["--corpus", str(folder), "--size", "0", "--segment", "16"]
    assert main(["eval", "lm", "--model", str(trained), *arguments]) == 0
    assert "bits_per_byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lm", "--model", "none"], "contains no model"),
        (["lm", "--model", "none", "--size", "-1"], "0 or more"),
        (["commonsense", "--model", "none", "--limit", "0"], "at least 1"),
        (["lm", "--modle", "none"], "--model"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said


def test_suite_of_a_preset_trains_measures_and_writes(tmp_path, capsys):
    record = tmp_path / "recall.json"
    options = {"keys": 3, "values": 4, "period": 2, "hidden_size": 32, "num_heads": 2}
    options |= {"num_hidden_layers": 1, "batch_size": 2}
    sets = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    more = ["--tasks", "recall", "--fit", "2", "--count", "4", "--json", str(record), *sets]
    assert main(["eval", "recall", "--model", "hope-tiny", *more]) == 0
    out = capsys.readouterr()
    said = out.err.splitlines()
    assert "0.2500" in out.out and said[0] == "recall"
    steps = [line.split(" |")[0] for line in said if "steps" in line]
    assert steps == ["1 of 2 steps", "2 of 2 steps"]
    assert json.loads(record.read_text())["metrics"]["tasks"]["recall"]["count"] == 4


def test_table_omits_empty_columns_and_notes_skipped_tasks(trained, capsys):
    small = ["--set", "vocab_size=16", "--set", "length=16"]
    more = ["--tasks", "mad-compress,mad-recall", "--count", "3", "--quiet", *small]
    assert main(["eval", "mad", "--model", str(trained), *more]) == 0
    out = capsys.readouterr()
    head, _, first, second, note = out.out.splitlines()
    figures = ["count", "score", "low_95", "high_95", "share", "chance", "seconds"]
    assert head.split() == ["task", *figures]
    assert first.split() == ["mad-compress", *"-" * len(figures)] and second.split()[1] == "3"
    assert note.startswith("mad-compress: decoded from the last position") and not out.err


def test_unknown_task_suggests_the_nearest(trained, capsys):
    assert main(["eval", "niah", "--model", str(trained), "--tasks", "niah-one"]) == 2
    assert "did you mean" in capsys.readouterr().err
