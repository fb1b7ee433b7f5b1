"""adapt, learn, ask and memory, on a tiny model with a byte tokenizer."""

import io
import json
import sys
from dataclasses import fields

import pytest
import torch
from cli_calls import failed, run
from held import WHAT, held
from tiny_bases import tiny_base
from transformers import AutoModelForCausalLM

from nestling.cli import learn
from nestling.cli.main import main
from nestling.continual.file import read_memory
from nestling.continual.opening import open_learner
from nestling.core.error import UserError
from nestling.data import byte_tokenizer

TEXT = "The pump is serviced every second winter, and the keys hang in the blue shed. " * 3


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    place = tmp_path_factory.mktemp("adapted")
    tiny_base("llama", vocab_size=258).save_pretrained(place / "base")
    byte_tokenizer().save_pretrained(place / "base")
    arguments = ["adapt", str(place / "base"), "--levels", "8:1e-2,32:1e-2,inf"]
    assert main([*arguments, "--out", str(place / "model")]) == 0
    return place / "model"


@pytest.fixture(scope="module")
def by_study(adapted):
    """The same base, which learns only by study."""
    arguments = ["adapt", str(adapted.parent / "base"), "--out", str(adapted.parent / "study")]
    assert main(arguments) == 0
    return adapted.parent / "study"


@pytest.fixture(scope="module")
def learned(adapted, tmp_path_factory):
    file = tmp_path_factory.mktemp("learned") / "notes.memory"
    assert main(["learn", str(adapted), TEXT, "--memory", str(file), "--quiet"]) == 0
    return file


def test_adapt_warns_without_a_tokenizer(tmp_path, capsys):
    tiny_base("gpt2").save_pretrained(tmp_path / "base")
    out = run(capsys, "adapt", tmp_path / "base", "--out", tmp_path / "out")
    assert "no tokenizer" in out and "gpt2" in out
    assert "tokenizer" in failed(
        capsys, "learn", tmp_path / "out", TEXT, "--memory", tmp_path / "m"
    )
    assert not (tmp_path / "m").exists()


def test_learn_continues_and_reports(adapted, tmp_path, capsys):
    memory, record = tmp_path / "m", tmp_path / "m.json"
    (tmp_path / "probe.txt").write_text("something else to be kept in mind")
    common = ["learn", adapted, TEXT, "--memory", memory, "--quiet"]
    out = run(
        capsys, *common, "--probe", tmp_path / "probe.txt", "--max-forgetting", 0.5,
        "--json", record, "--passes", 2,
    )  # fmt: skip
    assert "writes" in out and "probe before" in out
    metrics = json.loads(record.read_text())["metrics"]
    learner = open_learner(adapted)
    losses = [learner.read(TEXT).loss for _ in range(2)]
    assert [one["loss"] for one in metrics["read"]] == pytest.approx(losses, rel=1e-5)
    assert "--again" in run(capsys, *common)
    run(capsys, *common, "--again", "--finish")
    assert read_memory(memory).about["stream"]["open_ids"] == []
    assert len(read_memory(memory).about["documents"]) == 3


# options of `nestling learn`, and where they have no effect: for a model that only studies, or one
# whose levels are written by reading, without study
NEEDS_LEVELS = {
    "passes": ["2"], "finish": [], "surprise": ["1"], "averages": ["16"], "segment": ["8"],
    "save_every": ["8"],
}  # fmt: skip
NEEDS_STUDY = {
    "about": ["a boat"], "budget": ["8"], "rank": ["2"], "show_questions": [],
    "questions": ["FILE"], "keep_text": [],
}  # fmt: skip
ACT_ON_ALL = {
    "model", "texts", "memory", "levels", "again", "study", "window", "probe", "max_forgetting",
    "device", "json", "quiet",
}  # fmt: skip


def test_option_without_effect_is_refused(adapted, by_study, tmp_path, capsys):
    """Every option of `nestling learn`: a new one has to be put in one of the lists."""
    assert not ACT_ON_ALL & {*NEEDS_LEVELS, *NEEDS_STUDY}
    assert {one.name for one in fields(learn.Command)} == ACT_ON_ALL | {
        *NEEDS_LEVELS,
        *NEEDS_STUDY,
    }
    asked = tmp_path / "asked.tsv"
    asked.write_text("Where do the keys hang?")
    for model, table in ((by_study, NEEDS_LEVELS), (adapted, NEEDS_STUDY)):
        for name, values in table.items():
            flag = "--" + name.replace("_", "-")
            words = [str(asked) if word == "FILE" else word for word in values]
            told = failed(capsys, "learn", model, TEXT, "--memory", tmp_path / "m", flag, *words)
            assert flag[2:] in told and "no effect" in told, flag
    learn_it = ["learn", by_study, TEXT, "--memory", tmp_path / "m"]
    assert "leave out --study none" in failed(capsys, *learn_it, "--study", "none")
    guarded = ["learn", adapted, TEXT, "--memory", tmp_path / "m", "--probe", asked]
    assert "no effect with --probe" in failed(capsys, *guarded, "--save-every", 8)
    assert not (tmp_path / "m").exists()


def test_ask_options_that_need_a_memory_are_refused_without_one(adapted, capsys):
    for given in (["--gate", "base"], ["--levels", "8"]):
        assert f"{given[0]} has no effect" in failed(capsys, "ask", adapted, "The", *given)


def test_level_options_are_refused_for_a_studied_memory(by_study, tmp_path, capsys):
    learner = open_learner(by_study)
    file = learner.save(tmp_path / "m")
    told = failed(capsys, "memory", "reset", file, "--level", 1)
    assert "no levels" in told and "-1" not in told
    with pytest.raises(UserError, match="no levels"):
        learner.reset(0)
    told = failed(capsys, "memory", "consolidate", file, by_study, "--out", tmp_path / "n")
    assert "-1" not in told
    assert "nothing to ask" in failed(capsys, "memory", "show", file, by_study)


def test_no_verb_overwrites_an_unrelated_file(adapted, trained, learned, tmp_path, capsys):
    there, other = tmp_path / "there", tmp_path / "other"
    there.write_bytes(learned.read_bytes())
    other.write_bytes(learned.read_bytes())
    run(capsys, "memory", "reset", there, "--level", 1)
    before = there.read_bytes()
    learner = open_learner(adapted)
    with pytest.raises(UserError, match="load it first"):
        learner.save(there)
    for arguments in (
        ["memory", "merge", learned, learned, "--out", there],
        ["memory", "consolidate", learned, adapted, "--out", there],
        ["memory", "fork", learned, there],
        ["generate", "--model", trained, "--tokens", 1, "--save-memory", there],
    ):
        assert "name" in failed(capsys, *arguments)
    assert there.read_bytes() == before
    run(capsys, "memory", "merge", there, other, "--out", other)  # the output is also an input
    assert learner.save(there, overwrite=True).read_bytes() != before
    assert learner.save(there)  # now it knows this version


def test_ask_answers_from_the_levels(adapted, learned, capsys):
    ask = ["ask", adapted, "The pump is", "--tokens", 12]
    with_memory = run(capsys, *ask, "--memory", learned)
    assert with_memory.startswith("The pump is")
    learner = open_learner(adapted, learned)
    assert with_memory == "The pump is" + learner.generate("The pump is", tokens=12) + "\n"
    sampled = [run(capsys, *ask, "--temperature", 1, "--seed", seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert "chat template" in failed(capsys, *ask, "--chat")
    assert "there is no memory" in failed(capsys, *ask, "--memory", "nowhere")


def test_memory_shows_forks_resets_and_compares(learned, tmp_path, capsys):
    out = run(capsys, "memory", "show", learned)
    assert "level 0" in out and "LlamaForCausalLM" in out and "235" in out.replace(",", "")
    copy, small = tmp_path / "copy", tmp_path / "small"
    assert "lost 0 %" in run(capsys, "memory", "fork", learned, copy)
    assert copy.read_bytes() == learned.read_bytes()
    assert "already exists" in failed(capsys, "memory", "fork", learned, copy)
    assert "lost" in run(capsys, "memory", "fork", learned, small, "--storage", "rank:2")
    assert small.stat().st_size < copy.stat().st_size / 2
    assert "cosine" in run(capsys, "memory", "diff", copy, small)
    run(capsys, "memory", "reset", copy, "--level", 1)
    assert {name[:8] for name in read_memory(copy).tensors} == {"level.0.", "context."}
    run(capsys, "memory", "reset", copy)
    assert not read_memory(copy).tensors and not read_memory(copy).about["documents"]
    assert "only in" in run(capsys, "memory", "diff", copy, learned)
    assert "no level 2" in failed(capsys, "memory", "reset", copy, "--level", 2)


def test_merge_adds_what_was_learned(adapted, learned, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "sum"
    run(capsys, "learn", adapted, "Quite another text, of as many words as that. " * 4,
        "--memory", other, "--quiet")  # fmt: skip
    run(capsys, "memory", "merge", learned, other, "--out", out, "--weights", "0.5,2")
    one, two, both = (open_learner(adapted, file).state for file in (learned, other, out))
    for a, b, c in zip(one.levels, two.levels, both.levels, strict=True):
        for x, y, z in zip(a.moved, b.moved, c.moved, strict=True):
            torch.testing.assert_close(z, 0.5 * x + 2 * y, rtol=1e-6, atol=1e-8)
    assert len(both.documents) == 2
    merge = ["memory", "merge", learned, "--out", tmp_path / "no"]
    assert "weights" in failed(capsys, *merge[:3], other, *merge[3:], "--weights", "1")
    assert "two" in failed(capsys, *merge)


def test_export_is_a_standalone_model(adapted, learned, tmp_path, capsys):
    run(capsys, "memory", "export", learned, adapted, "--out", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    learner = open_learner(adapted, learned)
    ids = torch.tensor([learner.text.encode(TEXT)[:60]])
    with torch.no_grad():
        expected, _ = learner.reader.read(learner.weights(), ids)
        assert torch.equal(model(ids).logits, expected)
        assert not torch.equal(open_learner(adapted).reader.read({}, ids)[0], expected)


def test_memory_of_another_model_is_refused(learned, adapted, tmp_path, capsys):
    before = learned.read_bytes()
    tiny_base("llama", vocab_size=258, seed=5).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert "another base model" in failed(capsys, "learn", tmp_path, TEXT, "--memory", learned)
    learn = ["learn", adapted, TEXT, "--memory", learned]
    assert "other levels" in failed(capsys, *learn, "--levels", "8,16,inf")
    assert "window" in failed(capsys, *learn, "--window", 32)
    assert "probe" in failed(capsys, *learn, "--max-forgetting", 0.1)
    assert learned.read_bytes() == before


def test_model_trained_here_learns_without_adapt(trained, tmp_path, capsys):
    out = run(capsys, "learn", trained, TEXT, "--memory", tmp_path / "m", "--quiet", "--finish")
    assert "level 256" in out
    assert run(capsys, "ask", trained, "The", "--memory", tmp_path / "m", "--tokens", 4)


def test_nested_levels_from_adapt_to_show(adapted, tmp_path, capsys):
    base, model, memory = adapted.parent / "base", tmp_path / "model", tmp_path / "m"
    levels = "8:1e-2:adam:0.1,32:1e-2"
    run(capsys, "adapt", base, "--levels", levels, "--out", model)
    out = run(capsys, "learn", model, TEXT, "--memory", memory, "--quiet")
    assert "level 8:0.01:adam:0.1: 1 writes since it was reset" in out
    assert "8:0.01:adam:0.1" in run(capsys, "memory", "show", memory)
    assert any(".begin." in name for name in read_memory(memory).tensors)
    told = failed(capsys, "adapt", base, "--levels", "8:1:adam:2,32", "--out", tmp_path / "no")
    assert "fraction" in told


@pytest.mark.parametrize("variant", ["independent", "chain"])
def test_added_levels_are_exported_or_refused(adapted, tmp_path, capsys, variant):
    base, model, memory = adapted.parent / "base", tmp_path / "model", tmp_path / "m"
    run(capsys, "adapt", base, "--levels", "8:1e-2,32", "--variant", variant, "--out", model)
    run(capsys, "learn", model, TEXT, "--memory", memory, "--quiet")
    export = ["memory", "export", memory, model, "--out", tmp_path / "out"]
    if variant == "chain":
        assert "consolidate" in failed(capsys, *export)
        return
    assert "2 times as wide" in run(capsys, *export)
    learner = open_learner(model, memory)
    ids = torch.tensor([learner.text.encode(TEXT)[:60]])
    with torch.no_grad():
        expected, _ = learner.reader.read(learner.weights(), ids)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_averages_are_kept_in_the_memory_and_asked_through_the_gate(adapted, tmp_path, capsys):
    memory, record = tmp_path / "m", tmp_path / "m.json"
    learn = ["learn", adapted, TEXT, "--memory", memory, "--quiet"]
    run(capsys, *learn, "--averages", "16,64", "--json", record)
    assert json.loads(record.read_text())["config"]["averages"] == [64, 16]
    assert "averages [64, 16]" in run(capsys, "memory", "show", memory)
    ask = ["ask", adapted, "The pump", "--memory", memory, "--tokens", 4]
    assert run(capsys, *ask, "--gate", "levels") and run(capsys, *ask)
    assert "averages over [64, 16]" in failed(capsys, *learn, "--averages", "16")
    told = failed(capsys, "learn", adapted, TEXT, "--memory", tmp_path / "no", "--averages", "x")
    assert "such as 2048,8192" in told


def test_memory_locked_by_another_process_is_refused(adapted, learned, tmp_path, capsys):
    memory, kept = tmp_path / "m", learned.read_bytes()
    memory.write_bytes(kept)
    with held(memory) as child:
        for arguments in (
            ["learn", adapted, "another text", "--memory", memory],
            ["memory", "reset", memory],
            ["memory", "fork", learned, memory],
            ["memory", "merge", learned, learned, "--out", memory],
            ["memory", "consolidate", learned, adapted, "--out", memory],
            ["generate", "--model", adapted, "--save-memory", memory],
            ["train", "--steps", 1, "--out", memory],
        ):
            told = failed(capsys, *arguments)
            assert f"{memory} is in use by {WHAT} (process {child.pid}" in told
        assert "level 0" in run(capsys, "memory", "show", memory)
        assert run(capsys, "ask", adapted, "The pump", "--memory", memory, "--tokens", 2)
    assert memory.read_bytes() == kept


def test_learn_and_train_read_the_same_formats(adapted, tmp_path, capsys):
    folder, memory, probe = tmp_path / "texts", tmp_path / "m", tmp_path / "probe.jsonl"
    folder.mkdir()
    (folder / "a.html").write_text("<title>no</title><p>The pump &amp; the shed.</p>")
    (folder / "b.jsonl").write_text('{"text": "one of two"}\n{"text": "<|endoftext|> as text"}\n')
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa mark before it")
    probe.write_text('{"body": "to be kept in mind"}')
    run(
        capsys, "learn", adapted, folder, tmp_path / "bom.txt", "--memory", memory, "--quiet",
        "--probe", f"{probe}#body",
    )  # fmt: skip
    found = [(name, tokens) for name, _, tokens, _ in read_memory(memory).about["documents"]]
    texts = ("The pump & the shed.", "one of two", "<|endoftext|> as text", "a mark before it")
    names = ("a.html", "b.jsonl line 1", "b.jsonl line 2", "bom.txt")
    # bytes, and the token before each document
    assert found == [(name, len(text) + 1) for name, text in zip(names, texts, strict=True)]
    (folder / "c.txt").write_bytes(b"a\0b")
    told = failed(capsys, "learn", adapted, folder, "--memory", tmp_path / "n")
    assert "c.txt is binary" in told and not (tmp_path / "n").exists()


@pytest.mark.parametrize("verb", ["ask", "generate"])
def test_ascii_terminal_output_is_escaped(adapted, trained, monkeypatch, verb):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    model = ["ask", str(adapted)] if verb == "ask" else ["generate", "--model", str(trained)]
    prompt = ["caf\u00e9"] if verb == "ask" else ["--prompt", "caf\u00e9"]
    assert main([*model, *prompt, "--tokens", "2"]) == 0
    out.flush()
    assert out.buffer.getvalue().startswith(b"caf\\xe9")
