"""Targets are read from benchmark Results; the newest counts."""

import json

import pytest

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.bench.targets import TARGETS, read_all, standing


def tree(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def kept(target, ratio, date="2026-01-01", device=None):
    return Result(
        name=target.benchmark,
        config={"device": device or target.device},
        metrics=tree(target.path, ratio),
        provenance={"date": date, "threads": 2},
    )


@pytest.mark.parametrize("key", TARGETS)
def test_targets_pass_at_their_threshold(key, tmp_path):
    target = TARGETS[key]
    worse = 1.001 if target.lower_is_better else 0.999
    for ratio, green in ((target.must, True), (target.must * worse, False)):
        row = standing([(tmp_path / "x.json", kept(target, ratio))])[key]
        assert row["ratio"] == ratio and row["green"] is green and row["reason"] is None
    better = target.stretch <= target.must if target.lower_is_better else True
    assert better and (target.lower_is_better or target.stretch >= target.must)


def test_every_command_parses():
    from nestling.cli.main import _parse
    from nestling_lab.cli.bench import Command

    for target in TARGETS.values():
        if target.device == "cpu":
            words = target.command.split()
            assert words[:2] == ["nestling", "bench"]
            assert _parse(Command, "bench", words[2:]) is not None


def test_missing_result_has_a_reason():
    for key, row in standing([]).items():
        assert row["ratio"] is None and row["green"] is None and row["reason"]
        assert {"must", "stretch", "lower_is_better", "command"} <= set(row), key


def test_newest_result_of_the_right_device_counts(tmp_path):
    key, target = next(iter(TARGETS.items()))
    for name, result in {
        "a": kept(target, 1.0, "2026-01-02"),
        "b": kept(target, 2.0, "2026-01-01"),
        "c": kept(target, 3.0, "2026-01-03", device="cuda"),
        "d": kept(target, None, "2026-01-04"),
    }.items():
        result.write(tmp_path / f"{name}.json")
    row = standing(read_all(tmp_path))[key]
    assert row["ratio"] == 1.0 and row["source"] == "a.json"


def test_missing_folder_is_reported(tmp_path):
    with pytest.raises(UserError, match="--results"):
        read_all(tmp_path / "none")


def test_the_verb_writes_every_line(tmp_path, capsys):
    from nestling.cli.main import main

    key, target = next(iter(TARGETS.items()))
    kept(target, target.must).write(tmp_path / "in" / "a.json")
    out = tmp_path / "out.json"
    assert main(["bench", "targets", "--results", str(tmp_path / "in"), "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert set(metrics) == set(TARGETS) and metrics[key]["green"] is True
    assert "green" in capsys.readouterr().out
