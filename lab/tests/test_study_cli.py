"""nestling study: what is printed and written, also before anything has been run."""

import json
import shutil
from pathlib import Path

import pytest

from nestling.cli.main import main


def test_list_names_every_study_with_its_question(capsys):
    assert main(["study", "list"]) == 0
    printed = capsys.readouterr().out
    assert "recall-smoke" in printed and "demo-gap" in printed


@pytest.mark.parametrize("name", ["recall-smoke", "demo-gap"])
def test_status_of_nothing_is_written_in_every_form(name, tmp_path, capsys):
    files = {form: tmp_path / f"status.{form}" for form in ("json", "page", "markdown")}
    options = [word for form, path in files.items() for word in (f"--{form}", str(path))]
    assert main(["study", "status", name, "--out", str(tmp_path / "results"), *options]) == 0
    assert "0 cells finished" in capsys.readouterr().out
    result = json.loads(files["json"].read_text())
    assert result["config"]["finished"] == [] and result["config"]["pending"]
    assert files["page"].read_text().startswith("<!doctype html>")
    assert files["markdown"].read_text().startswith(f"# {name}")


def test_run_without_matching_cells_succeeds(tmp_path, capsys):
    arguments = [
        "study",
        "run",
        "recall-smoke",
        "--out",
        str(tmp_path),
        "--cells",
        "none",
        "--quiet",
    ]
    assert main(arguments) == 0
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "recall-smok"], "did you mean 'recall-smoke'?"),
        (["run", "demo-gap", "--workers", "0"], "at least 1"),
        (["run", "demo-gap", "--worker", "2"], "--workers"),
    ],
)
def test_user_errors_are_one_line_with_exit_code_2(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["study", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said


def test_reports_are_written_with_nothing_run_and_shards_are_checked(tmp_path, capsys):
    where = ["--out", str(tmp_path / "results")]
    assert main(["study", "report", "recall-smoke", *where]) == 0
    assert "To do: writes-on-seed0" in capsys.readouterr().out
    page = tmp_path / "results" / "recall-smoke" / "README.md"
    assert page.read_text().startswith("# recall-smoke\n")
    assert main(["study", "report", "--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "none").exists()
    latex = tmp_path / "tables.tex"
    assert main(["study", "status", "recall-smoke", *where, "--latex", str(latex)]) == 0
    assert latex.read_text().startswith("% recall-smoke")
    capsys.readouterr()
    assert main(["study", "run", "recall-smoke", "--shard", "3/2"]) == 2
    assert "1/4" in capsys.readouterr().err
    assert main(["study", "merge", "recall-smoke", "--from", str(tmp_path), *where]) == 2
    assert "no results of recall-smoke" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["recall-smoke", "optim-curvature", "new-languages"])
def test_committed_pages_match_their_results(name, tmp_path, capsys):
    committed = Path(__file__).parents[2] / "results" / name
    copied = tmp_path / name
    copied.mkdir()
    for file in committed.glob("*.json"):
        shutil.copy(file, copied)
    assert main(["study", "report", name, "--out", str(tmp_path)]) == 0
    assert (copied / "README.md").read_text() == (committed / "README.md").read_text()
