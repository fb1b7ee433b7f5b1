"""The accelerator script, run dry on a CPU; measured values are not asserted."""

import sys
from dataclasses import replace

import pytest
import torch

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.bench import gpu
from nestling_lab.bench.kernel_speed import figures
from nestling_lab.bench.targets import TARGETS, standing
from nestling_lab.bench.turns import Contestant

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("name", ["kernel_momentum", "kernel", "decode", "hope_340m_4096"])
def test_every_part_has_a_dry_run(name, narrow):
    found = gpu.run_part(name, "cpu", dry=True)
    assert found["ratio"] or found["reason"]
    if name != "hope_340m_4096":
        assert found["gate"] and max(found["gate"].values()) < 2e-2


def test_parts_match_targets_and_time_limits(tmp_path):
    aimed = {target.path[0] for target in TARGETS.values() if target.benchmark == "bench gpu"}
    assert aimed <= set(gpu.PARTS)
    assert gpu.GATE_SECONDS + sum(part.seconds for part in gpu.PARTS.values()) < 8 * 60


def test_targets_read_the_result(tmp_path):
    metrics = {name: {"ratio": 0.5} for name in gpu.PARTS}
    path = Result(name="bench gpu", config={"device": "cuda"}, metrics=metrics).write(
        tmp_path / "gpu.json"
    )
    rows = standing([(path, Result.read(path))])
    assert rows["gpu_kernel_momentum"]["ratio"] == 0.5 and rows["gpu_kernel_momentum"]["green"]
    assert rows["gpu_kernel"]["green"] is False


def test_hanging_part_is_reported(monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "kernel", replace(gpu.PARTS["kernel"], seconds=0))
    assert gpu.run_apart("kernel", "cpu", dry=True) == {
        "ratio": None,
        "reason": "took more than 0 s",
    }


def test_each_part_runs_in_its_own_process(monkeypatch):
    # also on a loaded machine: the time limits are for an accelerator
    monkeypatch.setitem(gpu.PARTS, "kernel", replace(gpu.PARTS["kernel"], seconds=3600))
    found = gpu.run_apart("kernel", "cpu", dry=True)
    assert found["form"] == "chunk" and found["milliseconds"]["chunk"]["median"] > 0


def test_silent_failure_is_reported(monkeypatch):
    monkeypatch.setattr(gpu.sys, "executable", "false")
    assert gpu.run_apart("kernel", "cpu", dry=True) == {
        "ratio": None,
        "reason": "it printed nothing",
    }


def test_no_speed_on_red(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "GATE", ["-c", "print('1 failed'); raise SystemExit(1)"])
    with pytest.raises(UserError, match="failed.*1 failed"):
        gpu.gate()
    monkeypatch.setattr(gpu, "GATE", ["-c", "pass"])
    gpu.gate()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="checkout"):
        gpu.gate()


@NO_CUDA
def test_missing_parts_are_reported():
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.measure("cuda", dry=False)
    with pytest.raises(UserError, match="--dry"):
        gpu.measure("cpu", dry=False)
    with pytest.raises(UserError, match="unknown part 'kernels'"):
        gpu.run_part("kernels", "cpu", dry=True)


def test_ratio_compares_kernels_with_fla():
    both = [Contestant(name=n, work=lambda: None, seconds=s) for n, s in TIMES.items()]
    assert figures(both)["ratio"] == 0.5
    assert figures(both[:2])["ratio"] is None and figures(both[:2])["reason"]


TIMES = {"triton": [2.0, 2.0], "chunk": [8.0, 8.0], "fla": [1.0, 1.0]}


def test_the_command_writes_a_result(tmp_path, monkeypatch, capsys):
    from nestling.cli.main import main

    file = tmp_path / "gpu.json"
    command = ["nestling", "bench", "gpu", "--part", "kernel", "--dry", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(file)])
    main()
    assert Result.read(file).name == "bench gpu, dry"
    assert capsys.readouterr().out.startswith("kernel ")
