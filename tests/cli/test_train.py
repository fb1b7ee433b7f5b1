"""nestling train, generate, levels and bench, as typed by a user."""

import json
import math
import signal
import subprocess
import sys
import time

import pytest
from apart import run_apart
from cli_training import train_arguments
from full_disk import on_a_full_disk

import nestling
from nestling.cli.main import main
from nestling.core.result import Result
from nestling.data import read_tokenizer
from nestling.models import presets


def test_training_prints_metrics(trained, figures):
    metrics = figures["metrics"]
    assert abs(metrics["first_loss"] - math.log(258)) < 0.05 * math.log(258)
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
    assert metrics["tokens_per_second"] > 0 and metrics["num_parameters"] > 10_000
    assert figures["corpus"].startswith("stdlib@") and figures["seed"] == 0
    assert figures["config"]["train"]["batch_size"] == 2
    assert set(figures["provenance"]) >= {"commit", "versions", "device", "threads"}


def test_transformers_loads_the_saved_model(trained):
    from transformers import AutoModelForCausalLM

    assert nestling.__version__
    model, tokenizer = AutoModelForCausalLM.from_pretrained(trained), read_tokenizer(trained)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    ids = tokenizer("def ", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] <= ids.shape[1] + 3


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    told = capsys.readouterr()
    return code, told.out, told.err


def refused(capsys, *arguments):
    """The single line of a user error."""
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "hope-tinny"], "did you mean 'hope-tiny'"),
        (["--corpus", "stdlb"], "did you mean 'stdlib'"),
        (["--set", "lerning_rate=3"], "did you mean 'learning_rate'"),
        (["--set", "learning_rate=fast"], "type float"),
        (["--set", "steps=3"], "--steps"),
        (["--set", "writes"], "NAME=VALUE"),
        (["--set", "sequence_length=70"], "multiple of the memory period"),
        (["--tokenizer", "byts"], "bytes"),
        (["--steps", "0"], "at least 1"),
        (["--device", "gpu"], "device"),
    ],
)
def test_user_error_is_one_line_and_leaves_no_files(tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    base = ["train", "--preset", "hope-tiny", "--tokenizer", "bytes", "--out", out]
    assert said in refused(capsys, *base, *arguments)
    assert not out.exists()


def test_unrelated_folder_is_not_touched(tmp_path, capsys):
    (tmp_path / "precious").write_text("text")
    assert "not empty" in refused(capsys, *train_arguments(tmp_path, "--steps", "1"))
    file = tmp_path / "precious"
    assert "is a file" in refused(capsys, *train_arguments(file, "--steps", "1"))
    assert file.read_text() == "text" and len(list(tmp_path.iterdir())) == 1


def test_existing_run_is_resumed_not_overwritten(tmp_path, capsys):
    code, _, _ = run(capsys, *train_arguments(tmp_path, "--steps", "2"))
    assert code == 0
    weights = (tmp_path / "model.safetensors").read_bytes()
    assert "--resume" in refused(capsys, *train_arguments(tmp_path, "--steps", "2"))
    assert "preset" in refused(capsys, *train_arguments(tmp_path, "--resume", preset="hope-tiny"))
    assert "seed" in refused(capsys, *train_arguments(tmp_path, "--resume", "--seed", "1"))
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    file = tmp_path / "more.json"
    code, _, _ = run(
        capsys, *train_arguments(tmp_path, "--steps", "3", "--resume", "--json", str(file))
    )
    assert code == 0 and Result.read(file).metrics["steps"] == 3


def test_damaged_checkpoint_is_refused(tmp_path, capsys):
    run(capsys, *train_arguments(tmp_path, "--steps", "2"))
    file = next((tmp_path / "checkpoints").glob("*/model.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    arguments = train_arguments(tmp_path, "--steps", "3", "--resume")
    assert "truncated or changed" in refused(capsys, *arguments)


def test_ctrl_c_saves_and_the_run_resumes(tmp_path, capsys):
    """End to end: a separate process, with the signal sent from outside."""
    arguments = train_arguments(tmp_path / "out", "--steps", "100000")
    command = [sys.executable, "-m", "nestling", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "out" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and "--resume" in err
    done = json.loads(log.read_text().splitlines()[-1])["step"]
    resumed = train_arguments(tmp_path / "out", "--steps", str(done + 1), "--resume")
    assert run(capsys, *resumed)[0] == 0
    assert json.loads(log.read_text().splitlines()[-1])["step"] == done + 1


def test_full_disk_keeps_the_last_checkpoint(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, *train_arguments(out, "--steps", "2"))[0] == 0
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    code, told = run_apart(on_a_full_disk, train_arguments(out, "--steps", "3", "--resume"))
    assert code == 2 and told.startswith("error: cannot save") and told.count("\n") == 1
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before
    assert run(capsys, *train_arguments(out, "--steps", "3", "--resume"))[0] == 0


def test_generation_repeats_with_the_same_seed(trained, capsys):
    def text(*more):
        code, out, _ = run(
            capsys, "generate", "--model", trained, "--prompt", "def ", "--tokens", "12", *more
        )
        assert code == 0 and out.startswith("def ")
        return out

    assert text("--seed", "1") == text("--seed", "1")
    assert text("--temperature", "0", "--seed", "1") == text("--temperature", "0", "--seed", "2")
    assert text("--seed", "1", "--top-k", "0") != text("--seed", "2", "--top-k", "0")


def test_saved_memory_resumes_identically(trained, tmp_path, capsys):
    """Greedy generation in two calls through a file equals one call."""
    from nestling.models.folder import load_model
    from nestling.train.inference import continue_text

    model, tokenizer = load_model(trained)
    plain = {"tokens": 5, "temperature": 0}
    _, cache = continue_text(model, tokenizer, "import", **plain)
    whole, _ = continue_text(model, tokenizer, " os", cache=cache, **plain)
    memory = tmp_path / "memory.safetensors"
    base = ["generate", "--model", trained, "--tokens", "5", "--temperature", "0"]
    run(capsys, *base, "--prompt", "import", "--save-memory", memory)
    _, out, _ = run(capsys, *base, "--prompt", " os", "--load-memory", memory)
    assert out == f" os{whole}\n"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("no model", "contains no model"),
        ("cut", "cannot be read"),
        ("foreign", "do not fit its config.json"),
        ("tokenizer", "tokenizer"),
        ("kind", "'llama'"),
    ],
)
def test_incomplete_model_folder_is_refused(trained, tmp_path, capsys, harm, said):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    if harm == "no model":
        (copy / "config.json").unlink()
    elif harm == "cut":
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    elif harm == "foreign":
        (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    elif harm == "tokenizer":
        (copy / "tokenizer.json").unlink()
    else:
        (copy / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert said in refused(capsys, "generate", "--model", copy, "--prompt", "x")


def test_levels_prints_writes_and_draws(tmp_path, capsys):
    file, drawing = tmp_path / "levels.json", tmp_path / "levels.svg"
    code, out, _ = run(
        capsys, "levels", "hope-tiny", "--optimizer", "adamw", "--json", file, "--svg", drawing
    )
    assert code == 0 and "cms.0 x4" in out and "weights" in out
    levels = Result.read(file).metrics["levels"]
    periods = [level["period"] for level in levels]
    assert periods == sorted(periods)
    assert drawing.read_text().startswith("<svg")
    assert "did you mean 'adamw'" in refused(capsys, "levels", "hope-tiny", "--optimizer", "adamww")


def test_levels_of_a_trained_folder_are_those_of_its_model(trained, tmp_path, capsys, figures):
    file = tmp_path / "levels.json"
    code, out, _ = run(capsys, "levels", trained, "--json", file)
    metrics = Result.read(file).metrics
    assert code == 0 and metrics["num_parameters"] == figures["metrics"]["num_parameters"]
    assert f"{metrics['num_parameters']:,} parameters" in out
    assert "leave out --set" in refused(capsys, "levels", trained, "--set", "writes=false")
    assert "contains no model" in refused(capsys, "levels", tmp_path)


def test_streaming_through_a_trained_model(trained, tmp_path, capsys):
    file = tmp_path / "stream.json"
    code, _, _ = run(
        capsys, "bench", "stream", "--model", trained, "--tokens", "1500", "--chunk", "128",
        "--json", file, "--quiet",
    )  # fmt: skip
    metrics = Result.read(file).metrics
    assert code == 0 and metrics["non_finite"] == 0
    assert math.isfinite(metrics["max_state_norm"]) and "rss_growth_mib" in metrics


def test_training_cost_prints_a_table_and_writes_a_result(tmp_path, capsys, monkeypatch):
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_heads": 2}
    monkeypatch.setitem(presets.SIZES, "tiny", shape)
    file = tmp_path / "cost.json"
    code, out, _ = run(
        capsys, "bench", "train", "--presets", "hope-attention", "--shapes", "1x16", "1x32",
        "--rounds", "1", "--json", file, "--quiet",
    )  # fmt: skip
    assert code == 0 and "hope-attention-tiny" in out
    metrics = Result.read(file).metrics
    assert set(metrics["presets"]) == {"transformer-tiny", "hope-attention-tiny"}
    assert set(metrics["shapes"]) == {"1x16", "1x32"}
    assert metrics["time_per_token"]["hope-attention-tiny"]["1x32 over 1x16"] > 0
    assert "did you mean" in refused(capsys, "bench", "train", "--presets", "hpe")
    assert "ROWSxLENGTH" in refused(capsys, "bench", "train", "--shapes", "512")
