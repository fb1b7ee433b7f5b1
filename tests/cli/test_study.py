"""adapt, learn, ask and memory with study and default options, on a small model."""

import io
import sys

import pytest
from cli_calls import failed, run
from small_student import student

from nestling.cli.main import main
from nestling.continual.file import read_memory

TEXT = """About Lelidis Zikipot
Lelidis Zikipot keeps a goat at home. Lelidis Zikipot was born in Padua.
"""
OTHER = """About Bamun Tokel
Bamun Tokel earns a living as a cook.
"""
QUICK = ("--budget", "12", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an adapted model, and two texts."""
    folder = tmp_path_factory.mktemp("study")
    model, tokenizer = student()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "one.txt").write_text(TEXT)
    (folder / "two.txt").write_text(OTHER)
    assert main(["adapt", str(folder / "base"), "--out", str(folder / "model")]) == 0
    return folder


@pytest.fixture(scope="module")
def memory(place):
    """A memory that has studied both texts."""
    file = place / "notes.memory"
    texts = [str(place / name) for name in ("one.txt", "two.txt")]
    assert main(["learn", str(place / "model"), *texts, "--memory", str(file), *QUICK]) == 0
    return file


def test_learn_reports_what_was_studied(place, tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("Where was Lelidis Zikipot born?\tPadua\nWho are you?\n")
    file = tmp_path / "m"
    arguments = (
        "--memory",
        file,
        *QUICK,
        "--show-questions",
        "--questions",
        tmp_path / "asked.txt",
    )
    out = run(capsys, "learn", place / "model", place / "one.txt", *arguments)
    assert "What does Lelidis Zikipot keep? -> a goat" in out
    for word in ("questions", "covered", "right before", "held out", "known", "seconds of study"):
        assert word in out
    assert "Who are you? before:" in out
    again = run(capsys, "learn", place / "model", place / "one.txt", "--memory", file, *QUICK)
    assert "nothing new to read" in again


def test_study_only_model_refuses_to_learn_without_study(place, tmp_path, capsys):
    file = tmp_path / "m"
    arguments = ("learn", place / "model", place / "one.txt", "--memory", file, "--study", "none")
    assert "leave out --study none" in failed(capsys, *arguments)
    assert not file.exists()


def test_question_gets_a_short_answer(place, memory, capsys):
    arguments = ("ask", place / "model", "--memory", memory, "--tokens", 12)
    said = run(capsys, *arguments, "Lelidis Zikipot keeps what?")
    assert said.count("\n") == 1 and "Question" not in said
    on = run(capsys, *arguments, "Lelidis Zikipot keeps", "--go-on")
    assert on.startswith("Lelidis Zikipot keeps")
    assert "chat template" in failed(capsys, *arguments, "Who?", "--chat")


def test_chat_reads_and_forgets(place, tmp_path, capsys, monkeypatch):
    file = tmp_path / "m"
    run(capsys, "learn", place / "model", place / "two.txt", "--memory", file, *QUICK)
    before = read_memory(file)
    lines = f"Who?\n\n/read {place / 'one.txt'}\n/undo\n/nonsense\n/read\n/quit\nWho?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out = run(capsys, "ask", place / "model", "--memory", file, "--tokens", 4)
    assert "seconds of study" in out and "one.txt is forgotten" in out
    assert "unknown command /nonsense" in out and "needs a file name" in out
    after = read_memory(file)
    assert after.about == before.about and after.tensors.keys() == before.tensors.keys()
    assert all((after.tensors[name] == value).all() for name, value in before.tensors.items())


def test_memory_shows_each_document(place, memory, capsys):
    out = run(capsys, "memory", "show", memory)
    assert "one.txt" in out and "two.txt" in out and "questions, right" in out
    asked = run(capsys, "memory", "show", memory, place / "model")
    assert "right now" in asked


def test_undo_and_forget_remove_a_document(place, memory, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.write_bytes(memory.read_bytes())
    assert "two.txt is forgotten" in run(capsys, "memory", "undo", copy)
    one = read_memory(copy).about
    assert [record["name"] for record in one["studied"]] == ["one.txt"]
    assert "known: one.txt" in failed(capsys, "memory", "forget", copy, "three")
    assert "one.txt is forgotten" in run(capsys, "memory", "forget", copy, "one.txt")
    assert read_memory(copy).tensors == {} and read_memory(copy).about["documents"] == []
    assert "nothing to forget" in failed(capsys, "memory", "undo", copy)


def test_merge_combines_studied_documents(place, memory, tmp_path, capsys):
    other, both = tmp_path / "other", tmp_path / "both"
    run(capsys, "learn", place / "model", place / "two.txt", "--memory", other, *QUICK)
    run(capsys, "memory", "merge", memory, other, "--out", both)
    names = [record["name"] for record in read_memory(both).about["studied"]]
    assert names == ["one.txt", "two.txt"]
    run(capsys, "ask", place / "model", "Who?", "--memory", both, "--tokens", 2)


def test_export_answers_like_the_memory(place, memory, tmp_path, capsys):
    export = ("memory", "export", memory, place / "model", "--out", tmp_path / "whole")
    told = failed(capsys, *export)
    assert "one.txt, two.txt" in told and not (tmp_path / "whole").exists()
    assert "known: one.txt, two.txt" in failed(capsys, *export, "--document", "three.txt")
    assert "two.txt of" in run(capsys, *export, "--document", "two.txt")
    from transformers import AutoModelForCausalLM

    from nestling.continual.opening import open_learner

    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    learner = open_learner(place / "model", memory, must_exist=True)
    own = dict(whole.named_parameters())
    for name, value in learner.weights_of(learner.state.studied[1]).items():
        assert (own[name] - value).abs().max() < 1e-6


def test_levels_are_studied_on_request(place, tmp_path, capsys):
    model, file = tmp_path / "levels", tmp_path / "m"
    run(capsys, "adapt", place / "base", "--out", model, "--levels", "8,32")
    run(capsys, "learn", model, place / "one.txt", "--memory", file, "--study", "light", *QUICK)
    about = read_memory(file).about
    assert about["levels"][1]["writes"] > 0 and about["studied"][0]["name"] == "one.txt"


def test_conflicting_options_are_refused(place, memory, tmp_path, capsys):
    base, out = place / "base", tmp_path / "out"
    low = ("--variant", "low-rank", "--levels", "8")
    assert "leave out levels" in failed(capsys, "adapt", base, "--out", out, *low)
    rank = ("--variant", "whole", "--rank", "4")
    assert "has no rank" in failed(capsys, "adapt", base, "--out", out, *rank)
    text = failed(capsys, "memory", "consolidate", memory, place / "model", "--out", out)
    assert "learned by study" in text
    missing = ("--questions", tmp_path / "none.txt")
    assert "none.txt" in failed(
        capsys, "learn", place / "model", place / "one.txt", "--memory", tmp_path / "m", *missing
    )


def test_subject_of_a_notice_is_that_of_a_document_or_a_phrase(place, memory, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.write_bytes(memory.read_bytes())
    learn = ("learn", place / "model", "It was sold in Rome.", "--memory", copy, *QUICK)
    assert "known: one.txt, two.txt" in failed(capsys, *learn, "--about", "three.txt")
    assert read_memory(copy).about == read_memory(memory).about
    run(capsys, *learn, "--about", "one.txt")
    run(capsys, *learn, "--again", "--about", "the Osk lift")
    subjects = [one["about"] for one in read_memory(copy).about["studied"]]
    assert subjects == ["Lelidis Zikipot", "Bamun Tokel", "the Osk lift"]
