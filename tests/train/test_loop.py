"""A run: learning, bitwise resuming, carried memory, and stopping."""

import json
import math
import os
import signal

import pytest
import torch
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.core.error import UserError
from nestling.data import Loader, byte_tokenizer, encode
from nestling.train import NotFinite, Run, train
from nestling.train.checkpoint import checkpoints, read_checkpoint, write_checkpoint
from nestling.train.job import held_out_of, loader_of

NAMES = ("transformer-tiny", "hope-attention-tiny", "hope-tiny")


def start(
    name="hope-attention-tiny",
    directory=None,
    *,
    resume=False,
    after_step=None,
    model=None,
    **settings,
):
    """Train a tiny model with some options; returns the model and its metrics."""
    model, text, config = tiny_model(name, **model or {}), tiny_text(), tiny_config(**settings)
    loader = loader_of(text, model, config)
    metrics = train(
        model,
        loader,
        config,
        directory=directory,
        held_out=held_out_of(text.take(6), model, config),
        resume=resume,
        quiet=True,
        after_step=after_step,
    )
    return model, metrics


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def lines(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_on_counting_text(name):
    _, metrics = start(name, steps=60, learning_rate=1e-2, batch_size=2)
    assert abs(metrics["first_loss"] - math.log(258)) < 0.05 * math.log(258)
    assert metrics["val_loss"] < 2.3
    assert metrics["val_perplexity"] == pytest.approx(math.exp(metrics["val_loss"]))
    assert not metrics["interrupted"] and metrics["tokens"] > 60 * 50


def test_nested_level_resets_and_resumes_bitwise(tmp_path):
    """Periods of one and three steps: of the fast level only steps 3 and 6 leave a quarter."""
    nested = {"periods": [64, 192], "shares": [0.25]}
    settings = {"steps": 7, "model": nested}
    starts, seen = [], []

    def watch(run):
        values = [p.detach().clone() for n, p in run.model.named_parameters() if "chain.0." in n]
        begun = run.optimizer.state_dict()["starts"]
        starts.append([value.clone() for value in begun.values()])
        seen.append(values)

    whole, _ = start(directory=tmp_path / "whole", after_step=watch, **settings)
    model = tiny_model("hope-attention-tiny", **nested)
    first = sorted(starts[0], key=torch.numel)
    at_first = [p.detach() for n, p in model.named_parameters() if "chain.0." in n]
    assert all(map(torch.equal, first, sorted(at_first, key=torch.numel)))
    for step in range(1, 8):
        rests = step % 3 == 0
        moved = not all(map(torch.equal, starts[step - 1], starts[max(step - 2, 0)]))
        assert moved == rests, step
        begins = {tuple(value.flatten().tolist()) for value in starts[step - 1]}
        there = {tuple(value.flatten().tolist()) for value in seen[step - 1]}
        assert (begins == there) == rests, step
    start(directory=tmp_path / "cut", after_step=lambda run: run.totals.step == 4, **settings)
    resumed, _ = start(directory=tmp_path / "cut", resume=True, **settings)
    assert same_weights(whole, resumed)
    with pytest.raises(UserError, match="architecture"):
        start(directory=tmp_path / "cut", resume=True, steps=7, model={"periods": [64, 192]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_is_bitwise_equal(tmp_path, name, accumulation):
    settings = {"steps": 4, "accumulation": accumulation}
    whole, expected = start(name, tmp_path / "whole", **settings)
    _, cut = start(name, tmp_path / "cut", after_step=lambda run: run.totals.step == 2, **settings)
    assert cut["interrupted"] and cut["steps"] == 2
    torch.manual_seed(999)
    resumed, metrics = start(name, tmp_path / "cut", resume=True, **settings)
    assert same_weights(whole, resumed)
    for figure in ("first_loss", "last_loss", "val_loss", "tokens", "steps"):
        assert metrics[figure] == expected[figure], figure
    assert [line["loss"] for line in lines(tmp_path / "cut")] == [
        line["loss"] for line in lines(tmp_path / "whole")
    ]


def test_resuming_a_finished_run_repeats_its_metrics(tmp_path):
    model, first = start(directory=tmp_path)
    again, second = start(directory=tmp_path, resume=True)
    assert same_weights(model, again) and first["val_loss"] == second["val_loss"]


def test_lines_after_the_last_checkpoint_are_dropped_on_resume(tmp_path):
    start(directory=tmp_path, steps=4)
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    start(directory=tmp_path, steps=4, resume=True)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_log_records_writes_and_losses(tmp_path):
    start(directory=tmp_path, steps=4, evaluate_every=2)
    found = lines(tmp_path)
    assert [line["fired"] for line in found] == [
        ["weights", "period 32"],
        ["weights", "period 32", "period 128"],
    ] * 2
    assert ["val_loss" in line for line in found] == [False, True, False, True]
    assert {"loss", "grad_norm", "learning_rate", "tokens", "seconds"} <= set(found[0])


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    start(directory=tmp_path, steps=6, save_every=1, keep=2)
    names = [path.name for path in checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("name", NAMES)
def test_memory_carries_over_to_the_next_batch(name):
    """Two batches give the loss of one of twice the length, with gradients cut between."""
    model, config = tiny_model(name), tiny_config()
    # one document per row, because longer batches take new documents in another order
    text = encode([f"{i} and {i + 1} " * 30 for i in range(4)], byte_tokenizer())
    halves = Run(model, loader_of(text, model, config), config)
    losses = []
    for _ in range(2):
        batch = next(halves._batches)
        count = int((batch.labels != -100).sum())
        losses.append((float(halves._backward(batch, count)) * count, count))
    doubled = tiny_config(sequence_length=128)
    whole = Run(model, loader_of(text, model, doubled), doubled)
    batch = next(whole._batches)
    count = int((batch.labels != -100).sum())
    total = sum(loss for loss, _ in losses) / sum(n for _, n in losses)
    assert float(whole._backward(batch, count)) == pytest.approx(total, rel=1e-5)
    assert all(
        not tensor.requires_grad
        for state in halves.memory.states if state is not None
        for tensor in state if isinstance(tensor, torch.Tensor)
    )  # fmt: skip


def test_without_carry_every_batch_starts_fresh():
    _, carried = start(steps=3)
    _, fresh = start(steps=3, carry=False)
    assert carried["first_loss"] == fresh["first_loss"]
    assert carried["last_loss"] != fresh["last_loss"]


def test_accumulation_equals_one_larger_batch():
    """Two batches of 4 rows weigh every token as one batch of both does."""
    model, text = tiny_model(), tiny_text()
    config = tiny_config(accumulation=2, carry=False)
    run = Run(model, loader_of(text, model, config), config)
    batches = [next(run._batches) for _ in range(2)]
    counts = [int((batch.labels != -100).sum()) for batch in batches]
    for batch in batches:
        run._backward(batch, sum(counts))
    gradients = [p.grad.clone() for p in model.parameters()]
    run.optimizer.zero_grad()
    joined = type(batches[0])(*(torch.cat(pair) for pair in zip(*batches, strict=True)))
    run._backward(joined, sum(counts))
    for mine, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


def test_recompute_gives_the_same_run():
    found = []
    for recompute in (False, True):
        model, text = tiny_model("hope-tiny"), tiny_text()
        config = tiny_config(recompute=recompute)
        run, calls = Run(model, loader_of(text, model, config), config), []
        next(model.body.each()).register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        run.step()
        found.append((run.totals.loss, run.totals.grad_norm, len(calls)))
    assert found[1] == (*map(pytest.approx, found[0][:2]), 2)
    assert found[0][2] == 1


def test_bfloat16_trains_with_weights_in_float32():
    model, metrics = start(steps=20, precision="bfloat16", learning_rate=1e-2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert metrics["last_loss"] < metrics["first_loss"] - 1


def test_ctrl_c_finishes_the_step_and_saves(tmp_path, capsys):
    def interrupt(run):
        if run.totals.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    _, metrics = start(directory=tmp_path, after_step=interrupt)
    assert metrics["interrupted"] and metrics["steps"] == 2 and "val_loss" not in metrics
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
    assert "stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    # if the run cannot be resumed, the caller must not take the model for trained
    with pytest.raises(KeyboardInterrupt):
        start(after_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    _, metrics = start(after_step=lambda run: run.totals.step == 2)
    assert metrics["interrupted"] and metrics["steps"] == 2


def test_sigterm_finishes_the_step_and_saves(tmp_path, capsys):
    """As sent by a scheduler; the run resumes bitwise."""

    def terminate(run):
        if run.totals.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    _, metrics = start(directory=tmp_path, after_step=terminate, steps=4)
    assert metrics["interrupted"] and metrics["terminated"] and metrics["steps"] == 2
    assert "terminated; stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    resumed, metrics = start(directory=tmp_path, resume=True, steps=4)
    assert "terminated" not in metrics and same_weights(resumed, start(steps=4)[0])


@pytest.mark.parametrize("where", ["loss", "gradient norm"])
def test_nonfinite_loss_stops_and_saves_the_last_good_state(tmp_path, where):
    good = {}

    def spoil(run):
        if run.totals.step == 3:
            good.update({n: p.detach().clone() for n, p in run.model.named_parameters()})
            if where == "loss":
                module = run.model.lm_head
                module.register_forward_hook(lambda m, i, out: out * float("nan"))
            else:
                run.model.backbone.norm.weight.register_hook(lambda g: g * float("inf"))

    with pytest.raises(NotFinite, match=f"{where} is (nan|inf) at step 4.*--resume"):
        start(directory=tmp_path, after_step=spoil)
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == ["step-00000003"]
    resumed, metrics = start(directory=tmp_path, resume=True)
    whole, expected = start()
    assert metrics["last_loss"] == expected["last_loss"] and same_weights(resumed, whole)
    assert good


def test_resume_allows_another_rate_but_not_another_batch(tmp_path):
    start(directory=tmp_path, after_step=lambda run: run.totals.step == 2)
    with pytest.raises(UserError, match="batch_size was 4.*is now 2"):
        start(directory=tmp_path, resume=True, batch_size=2)
    _, metrics = start(directory=tmp_path, resume=True, learning_rate=1e-4)
    assert metrics["steps"] == 8


def test_checkpoint_of_another_architecture_is_refused(tmp_path):
    start("hope-attention-tiny", tmp_path, steps=2)
    with pytest.raises(UserError, match="another architecture.*pattern|memories"):
        start("transformer-tiny", tmp_path, steps=2, resume=True)


def test_run_started_with_an_unused_option_resumes(tmp_path):
    """Earlier versions accepted options that are now refused."""
    off = {"writes": False}
    start("hope-tiny", tmp_path, after_step=lambda run: run.totals.step == 1, model=off)
    path = checkpoints(tmp_path / "checkpoints")[-1]
    parts = read_checkpoint(path)
    parts["run"]["architecture"]["memories"]["self_titans"]["eta_init"] = 0.3
    write_checkpoint(path, parts)
    _, metrics = start("hope-tiny", tmp_path, model=off, resume=True)
    assert metrics["steps"] == 8


def test_training_does_not_change_the_text_of_other_loaders():
    """The run's seed decides everything: same seed same bits, another seed another order."""
    (one, _), (other, _), (third, _) = start(seed=1), start(seed=1), start(seed=2)
    assert same_weights(one, other) and not same_weights(one, third)


def test_row_of_padding_only_contributes_nothing():
    """A text shorter than a batch: rows without labels give no loss and no nan gradients."""
    model, config = tiny_model(), tiny_config(steps=2)
    text = tiny_text(4)
    loader = Loader(text, batch_size=4, sequence_length=64, align=16)
    metrics = train(model, loader, config, quiet=True)
    assert math.isfinite(metrics["last_loss"])
