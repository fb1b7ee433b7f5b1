"""Metrics of a run in its log and in trackers."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tiny_training import tiny_config, tiny_model, tiny_text

from nestling.cli.main import main
from nestling.core.error import UserError
from nestling.train import meter, train
from nestling.train.config import train_config
from nestling.train.job import loader_of
from nestling.train.sketch import cost


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def go(folder, track="none", resume=False, **settings):
    model, config = tiny_model("mamba2-tiny"), tiny_config(**{"steps": 2} | settings)
    loader = loader_of(tiny_text(), model, config)
    train(model, loader, config, directory=folder, track=track, resume=resume, quiet=True)
    return model


def test_log_records_speed_and_memory(tmp_path, monkeypatch):
    asked, whole = [], cost(tiny_model("mamba2-tiny").config, 64)
    monkeypatch.setattr(meter, "cost", lambda *given: asked.append(given) or whole)
    model = go(tmp_path / "given", peak_flops=1e12)
    found, operations = lines(tmp_path / "given"), whole.flops / 64
    assert asked == [(model.config, 64)]
    tokens = seconds = waited = 0
    for line in found:
        step = line["seconds"] - seconds
        assert line["tokens_per_second"] == pytest.approx((line["tokens"] - tokens) / step)
        assert line["waiting"] == pytest.approx((line["waited"] - waited) / step)
        assert 0 < line["waiting"] < 1 and line["peak_memory"] > 2**20
        used = operations * line["tokens_per_second"] / 1e12
        assert line["utilisation"] == pytest.approx(used)
        tokens, seconds, waited = line["tokens"], line["seconds"], line["waited"]
    # without a given peak, costly measurements wait until the run has lasted a while
    go(tmp_path / "short")
    assert all("utilisation" not in line for line in lines(tmp_path / "short"))
    monkeypatch.setattr(meter, "PATIENCE", 0)
    monkeypatch.setitem(meter.SIDE, "cpu", 64)
    go(tmp_path / "long")
    assert all(line["utilisation"] > 0 for line in lines(tmp_path / "long"))
    with pytest.raises(UserError, match="peak_flops is 0.0; give more than 0"):
        train_config({"peak_flops": 0})


def test_tensorboard_gets_every_logged_number(tmp_path, monkeypatch):
    board, made = {}, []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            board[name, step] = value

        def close(self):
            made.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    go(tmp_path, "tensorboard")
    assert made == [(str(tmp_path / "tensorboard"), 1), "closed"]
    for line in lines(tmp_path):
        kept = {name: value for (name, step), value in board.items() if step == line["step"]}
        assert kept == {n: v for n, v in line.items() if n not in ("step", "fired")}
    go(tmp_path, "tensorboard", resume=True, steps=3)
    assert made[2:] == [(str(tmp_path / "tensorboard"), 3), "closed"]
    assert board["loss", 3] == lines(tmp_path)[2]["loss"]


def test_trackio_run_belongs_to_a_project(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(
        init=lambda **given: calls.append(given),
        log=lambda values, step: calls.append((step, values["loss"])),
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    go(tmp_path / "mine", "trackio")
    begun, *points, end = calls
    assert (begun["project"], begun["name"], begun["resume"]) == ("nestling", "mine", "never")
    assert begun["config"]["steps"] == 2 and end == "finished"
    assert points == [(line["step"], line["loss"]) for line in lines(tmp_path / "mine")]


def test_missing_tracker_fails_before_reading_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(["train", "--out", str(out), "--track", "trackio"]))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told == "error: --track trackio needs trackio: pip install 'nestling[track]'\n"
    assert not (out / "run.json").exists()


def test_tensorboard_reads_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(tmp_path, "tensorboard")
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [point.value for point in read.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in lines(tmp_path)])


def test_trackio_reads_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    go(tmp_path / "mine", "trackio")
    go(tmp_path / "mine", "trackio", resume=True, steps=3)
    (record,) = SQLiteStorage.get_run_records("nestling")
    assert record["name"] == "mine"
    kept = SQLiteStorage.get_logs("nestling", "mine")
    assert [point["loss"] for point in kept] == [line["loss"] for line in lines(tmp_path / "mine")]
